(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelector("h1").textContent = document.title;
  const select = document.getElementById("score");
  const heat = document.getElementById("heat"), lines = document.getElementById("lines");
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;")
    .replace(/>/g, "&gt;");
  const short = (value) => String(Number(value.toPrecision(5)));
  const font = {family: "Liberation Sans, Arial, sans-serif", size: 13};
  const config = {responsive: true, displaylogo: false, showSendToCloud: false};
  data.scores.forEach((score, i) => {
    const option = document.createElement("option");
    option.textContent = score.name;
    option.value = i;
    select.append(option);
  });
  select.value = data.first;

  // with more than two settings, each row is a combination of all but the last
  const columns = data.axes[data.axes.length - 1];
  const before = data.axes.slice(0, -1);
  const rowOf = (run) => run.at.slice(0, -1).join(", ");
  const rows = before.length === 1 ? before[0].values : [...new Set(data.runs.map(rowOf))];
  const place = (run) => [rows.indexOf(rowOf(run)), columns.values.indexOf(run.at.at(-1))];
  const empty = () => rows.map(() => columns.values.map(() => null));

  function said(run, score) {
    const value = run.values[score];
    return run.name + "<br>" + data.axes.map((axis, i) => plain(axis.name + " " + run.at[i]))
      .join(", ") + "<br>" + plain(data.scores[score].name) + ": " +
      (value === null ? "no value" : short(value)) +
      (run.status === "trained" ? "" : "<br>" + plain(run.status + " " + run.reason)
        .replace(/(.{60})/g, "$1<br>"));
  }

  function drawHeat(index) {
    const score = data.scores[index], z = empty(), hover = empty(), open = empty(), marks = [];
    let best = null;
    for (const run of data.runs) {
      const [r, c] = place(run), value = run.values[index];
      z[r][c] = value;
      hover[r][c] = said(run, index);
      open[r][c] = run.link;
      const good = value === null ? null : score.sized ? Math.abs(value) : score.better * value;
      if (score.better && good !== null && (best === null || good > best.good)) {
        best = {good: good, r: r, c: c};
      }
      marks.push({x: c, y: r, showarrow: false,
        text: value === null ? plain(run.status) : short(value),
        font: {size: 12, color: value === null ? "#5c666f" : shade(value, score)}});
    }
    const shapes = best === null ? [] : [{type: "rect", x0: best.c - 0.48, x1: best.c + 0.48,
      y0: best.r - 0.48, y1: best.r + 0.48, line: {color: "#d62728", width: 3}}];
    const trace = {type: "heatmap", z: z, customdata: open, text: hover, hoverinfo: "text",
      hoverongaps: true, xgap: 2, ygap: 2, colorscale: data.viridis,
      reversescale: score.better < 0, zmin: score.range[0], zmax: score.range[1],
      colorbar: {thickness: 14}};
    const ticks = (values) => ({tickvals: values.map((_, i) => i), ticktext: values.map(plain),
      zeroline: false, showgrid: false});
    const layout = {font: font, margin: {l: 110, r: 20, t: 12, b: 50},
      height: Math.min(720, 130 + 54 * rows.length), annotations: marks, shapes: shapes,
      plot_bgcolor: "#f1f1f1", hoverlabel: {align: "left"},
      xaxis: Object.assign({title: {text: plain(columns.name)}}, ticks(columns.values)),
      yaxis: Object.assign({title: {text: plain(before.map((a) => a.name).join(", "))},
        automargin: true}, ticks(rows))};
    Plotly.react(heat, [trace], layout, config);
  }

  function shade(value, score) {
    const [low, high] = score.range, share = (value - low) / (high - low || 1);
    return (score.better < 0 ? 1 - share : share) < 0.6 ? "#ffffff" : "#1f2428";
  }

  function drawLines(index) {
    const score = data.scores[index];
    const runs = data.runs.filter((run) => run.values.some((value) => value !== null));
    const settings = data.axes.map((axis, i) => ({label: plain(axis.name),
      values: runs.map((run) => axis.values.indexOf(run.at[i])),
      tickvals: axis.values.map((_, k) => k), ticktext: axis.values.map(plain),
      range: [-0.2, axis.values.length - 0.8]}));
    const shown = data.scores.map((other, i) => ({label: plain(other.name.length > 26 ?
      other.name.slice(0, 25) + "\u2026" : other.name), tickformat: ".5~g",
      values: runs.map((run) => run.values[i])}))
      .filter((dimension) => dimension.values.every((value) => value !== null));
    const trace = {type: "parcoords", dimensions: [...settings, ...shown],
      labelangle: -20, tickfont: {size: 10}, rangefont: {size: 1, color: "rgba(0,0,0,0)"},
      line: {color: runs.map((run) => run.values[index]), colorscale: data.viridis,
        reversescale: score.better < 0, cmin: score.range[0], cmax: score.range[1],
        showscale: true, colorbar: {thickness: 14, title: {text: plain(score.name)}}}};
    const width = Math.max(document.body.clientWidth - 44, 120 * (settings.length + shown.length));
    Plotly.react(lines, [trace], {font: font, width: width, height: 460,
      margin: {l: 70, r: 40, t: 110, b: 30}}, {displaylogo: false, showSendToCloud: false});
  }

  function draw() {
    drawHeat(Number(select.value));
    drawLines(Number(select.value));
  }
  draw();
  select.addEventListener("change", draw);
  heat.on("plotly_click", (event) => {
    const link = event.points[0].customdata;
    if (link) window.open(link, "_blank");
    else document.getElementById("note").textContent = "That run has no report.";
  });
})();
