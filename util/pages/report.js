(function () {
  "use strict";
  const element = (id) => document.getElementById("view-" + id);
  const data = JSON.parse(document.getElementById("data").textContent);
  const plot = element("plot"), sheet = element("sheet"), picture = element("picture");
  const brush = picture.getContext("2d");
  let kept = null;  // index of the cell held by a click

  // plotly reads tags and entities in its labels: escape them; long names that begin alike end
  // differently, so they are cut in the middle
  const label = (text, length) => {
    const end = Math.floor((length - 1) / 2);
    const short = text.length > length
      ? text.slice(0, length - 1 - end) + "\u2026" + text.slice(-end) : text;
    return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  };

  function option(select, text, value) {
    const entry = document.createElement("option");
    entry.textContent = text;
    entry.value = value;
    select.append(entry);
  }
  data.projections.forEach((projection, i) => option(element("projection"), projection.name, i));
  data.columns.forEach((column, i) => {
    if (column.kind !== "text") option(element("colour"), column.name, i);
  });
  if (data.first !== null) element("colour").value = data.first;
  else element("colour").parentElement.hidden = true;

  function valueOf(column, cell) {
    const value = column.values ? column.values[cell] : column.names[column.codes[cell]];
    return value === null ? "missing" : String(value);
  }

  function show(cell) {
    const side = data.tile.side;
    const x = (cell % data.tile.columns) * side, y = Math.floor(cell / data.tile.columns) * side;
    brush.imageSmoothingEnabled = false;
    brush.drawImage(sheet, x, y, side, side, 0, 0, picture.width, picture.height);
    picture.classList.toggle("kept", cell === kept);
    element("id").textContent = data.ids[cell];
    element("row").replaceChildren(...data.columns.map((column) => {
      const row = document.createElement("tr");
      const name = document.createElement("th"), value = document.createElement("td");
      name.textContent = column.name;
      value.textContent = valueOf(column, cell);
      row.append(name, value);
      return row;
    }));
  }

  // one trace per class, so that the legend can hide it
  function groups(column, known) {
    if (!column) return [{cells: known, name: "cells", colour: "#0072b2"}];
    if (column.kind === "class") {
      const cells = column.names.map(() => []);
      for (const cell of known) cells[column.codes[cell]].push(cell);
      const classes = column.names.map((name, i) => ({
        cells: cells[i], colour: column.colours[i], shape: column.shapes[i], rank: i + 1,
        name: label(name, 28) + " (" + column.counts[i].toLocaleString("en") + ")",
      }));
      return classes.sort((a, b) => b.cells.length - a.cells.length);  // rare ones lie on top
    }
    const valued = known.filter((cell) => column.values[cell] !== null);
    const missing = known.filter((cell) => column.values[cell] === null);
    const found = [{cells: valued, name: "cells", column: column}];
    if (missing.length) found.push({cells: missing, colour: "#d0d0d0", name: "missing"});
    return found;
  }

  function marker(group, size, opacity) {
    if (!group.column)
      return {size: size, color: group.colour, opacity: opacity, symbol: group.shape || "circle"};
    return {
      size: size, opacity: opacity, color: group.cells.map((cell) => group.column.values[cell]),
      cmin: group.column.low, cmax: group.column.high, colorscale: data.viridis,
      colorbar: {title: {text: label(group.column.name, 30)}, thickness: 14, len: 0.7},
    };
  }

  function draw() {
    const projection = data.projections[element("projection").value];
    const column = data.first === null ? null : data.columns[element("colour").value];
    const [xs, ys, zs] = projection.coordinates;
    const known = data.ids.map((_, cell) => cell).filter((cell) => xs[cell] !== null);
    const size = known.length > 8000 ? 2 : known.length > 1500 ? 3 : 4.5;
    const traces = groups(column, known).map((group) => {
      const trace = {
        type: zs ? "scatter3d" : "scattergl", mode: "markers", name: group.name,
        x: group.cells.map((cell) => xs[cell]), y: group.cells.map((cell) => ys[cell]),
        customdata: group.cells, hoverinfo: "none", showlegend: !group.column,
        legendrank: group.rank,
        // in 3-D only opaque points hide the points behind them
        marker: zs ? marker(group, size, 1) : marker(group, size + 1.5, 0.8),
      };
      if (zs) trace.z = group.cells.map((cell) => zs[cell]);
      return trace;
    });
    const axes = projection.axes.map((name) => ({
      title: {text: label(name, 30)}, zeroline: false, gridcolor: "#e4e7e9", showspikes: false,
      backgroundcolor: "#ffffff", color: "#40474d",
    }));
    const layout = {
      margin: zs ? {l: 0, r: 0, t: 34, b: 0} : {l: 60, r: 10, t: 34, b: 50},
      font: {family: "Liberation Sans, Arial, sans-serif", size: 13}, hovermode: "closest",
      uirevision: projection.name,  // a new colouring keeps the view
      legend: {title: {text: column ? label(column.name, 30) : ""}, itemsizing: "constant"},
      paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff",
    };
    if (zs) {
      layout.scene = {xaxis: axes[0], yaxis: axes[1], zaxis: axes[2], aspectmode: "cube",
        camera: {eye: {x: 1.5, y: -1.5, z: 0.85}, center: {x: 0, y: 0, z: -0.1}}};
    } else {
      layout.xaxis = axes[0];
      layout.yaxis = axes[1];
      if (projection.axes[1].startsWith("spread")) layout.yaxis.showticklabels = false;
    }
    const config = {responsive: true, displaylogo: false, scrollZoom: element("wheel").checked,
      showSendToCloud: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};
    Plotly.react(plot, traces, layout, config);
  }

  draw();
  element("projection").addEventListener("change", draw);
  element("colour").addEventListener("change", draw);
  element("wheel").addEventListener("change", draw);
  plot.on("plotly_hover", (event) => {
    if (kept === null) show(event.points[0].customdata);
  });
  plot.on("plotly_click", (event) => {
    const cell = event.points[0].customdata;
    kept = kept === cell ? null : cell;
    show(cell);
  });
})();
