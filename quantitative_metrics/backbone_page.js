(function () {
  "use strict";
  const views = JSON.parse(document.getElementById("data").textContent);
  const select = document.getElementById("projection"), note = document.getElementById("note");
  views.forEach((view, i) => {
    const option = document.createElement("option");
    option.textContent = view.name;
    option.value = i;
    select.append(option);
  });
  function draw() {
    const view = views[select.value];
    note.textContent = view.note;
    const axes = view.axes.map((name) => ({title: {text: name}, zeroline: false,
      gridcolor: "#e4e7e9", showspikes: false, backgroundcolor: "#ffffff", color: "#40474d"}));
    const layout = {
      margin: {l: 50, r: 10, t: 10, b: 45}, hovermode: "closest", uirevision: view.name,
      font: {family: "Liberation Sans, Arial, sans-serif", size: 13},
      legend: {itemsizing: "constant", y: 0.93}, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff",
    };
    if (axes.length === 3) {
      layout.margin = {l: 0, r: 0, t: 0, b: 0};
      layout.scene = {xaxis: axes[0], yaxis: axes[1], zaxis: axes[2], aspectmode: "cube",
        camera: {eye: {x: 1.5, y: -1.5, z: 0.85}, center: {x: 0, y: 0, z: -0.1}}};
    } else {
      layout.xaxis = axes[0];
      layout.yaxis = axes[1];
    }
    Plotly.react("plot", view.traces, layout,
      {responsive: true, displaylogo: false, scrollZoom: true, showSendToCloud: false});
  }
  select.addEventListener("change", draw);
  draw();
})();
