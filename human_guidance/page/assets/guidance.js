/* What happens in the browser: outlines, clicks and drags in the planes, and the card of the cell
   under the mouse. Text from a user's table is written with textContent only. */
(function () {
  "use strict";
  const CLICK = 5;  // pixels that the mouse may move within a click
  let hovered = null;  // row of the cell under the mouse
  let counter = 0;  // makes two equal clicks two events

  // Callbacks that need no server, by the names that callbacks.py gives them.
  window.dash_clientside = Object.assign(window.dash_clientside || {}, {guidance: {
    colour: (column) => column,  // for the card of a cell
    step: (step) => `panel show-${step}`,
    view: (view) => {  // plotly has to measure a figure that was hidden
      setTimeout(() => window.dispatchEvent(new Event("resize")), 60);
      return `page view-${view}`;
    },
    tool: (tool) => {
      const plot = document.querySelector("#explore .js-plotly-plot");
      if (plot) window.Plotly.relayout(plot, {dragmode: tool});
      return tool;
    },
  }});

  const send = (store, data) =>
    window.dash_clientside.set_props(store, {data: {...data, n: ++counter}});

  // "x2y2" -> latent axes of that plane, or undefined
  const axesOf = (plot, subplot) => (plot.layout.meta || {planes: {}}).planes[subplot];

  // The corners of a shape: "M1,2L3,4L5,6Z" of a lasso, or a box.
  function corners(shape) {
    if (shape.path === undefined)
      return {x: [shape.x0, shape.x1, shape.x1, shape.x0], y: [shape.y0, shape.y0, shape.y1, shape.y1]};
    const numbers = (shape.path.match(/-?[\d.]+(?:e[-+]?\d+)?/gi) || []).map(Number);
    return {x: numbers.filter((_, i) => i % 2 === 0), y: numbers.filter((_, i) => i % 2 === 1)};
  }

  function onDrawn(plot, change) {
    const shape = change.shapes && change.shapes[change.shapes.length - 1];
    if (!shape) return;
    const axes = axesOf(plot, shape.xref + shape.yref), drawn = corners(shape);
    // remove the outline: the server finds the selected cells, and every panel shows them
    setTimeout(() => window.Plotly.relayout(plot, {shapes: []}), 0);
    if (axes && drawn.x.length >= 3) send("stroke", {axes: axes, ...drawn});
  }

  function onDragged(plot, change) {
    for (const [key, value] of Object.entries(change)) {
      const match = /^annotations\[(\d+)\]\.x$/.exec(key);
      const mark = match && plot.layout.annotations[match[1]];
      if (!mark || mark.name !== "cross") continue;
      const y = change[`annotations[${match[1]}].y`] ?? mark.y;
      const axes = axesOf(plot, mark.xref + mark.yref);
      if (axes) send("drag", {axes: axes, x: value, y: y});
    }
  }

  // A click counts anywhere in a plane; plotly reports only clicks on points.
  let pressed = null;
  window.addEventListener("pointerdown", (event) => {
    const area = event.target.closest && event.target.closest("#explore .nsewdrag");
    pressed = area && event.button === 0 && {area: area, x: event.clientX, y: event.clientY};
  }, true);
  window.addEventListener("pointermove", (event) => {  // a lasso may end where it began
    if (pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > CLICK)
      pressed = null;
  }, true);
  window.addEventListener("pointerup", (event) => {
    const start = pressed;
    pressed = null;
    if (!start) return;
    if (event.shiftKey) {
      if (hovered !== null) send("stroke", {cell: hovered, how: "add"});
      return;
    }
    const plot = start.area.closest(".js-plotly-plot"), subplot = start.area.dataset.subplot;
    const axes = axesOf(plot, subplot), plane = plot._fullLayout._plots[subplot];
    if (!axes || !plane) return;
    const box = start.area.getBoundingClientRect();
    send("click", {
      axes: axes,
      x: plane.xaxis.p2d(event.clientX - box.left),
      y: plane.yaxis.p2d(event.clientY - box.top),
    });
  }, true);

  const cards = new Map();  // address -> lines of the card
  let mouse = {x: 0, y: 0};
  window.addEventListener("pointermove", (event) => {
    mouse = {x: event.clientX, y: event.clientY};
    const picture = event.target.closest && event.target.closest("img.cell");
    if (picture) showCard(Number(picture.dataset.row));
    else if (event.target.closest && !event.target.closest(".graph")) hideCard();
  }, true);

  async function cardOf(row) {
    const page = document.getElementById("page");
    const address = `/cells/${row}.json?colour=${encodeURIComponent(page.dataset.colour || "")}`;
    if (!cards.has(address)) {
      const answer = await fetch(address);
      if (!answer.ok) return null;
      cards.set(address, await answer.json());
    }
    return cards.get(address);
  }

  async function showCard(row) {
    if (row === hovered) return placeCard();
    hovered = row;
    const card = document.getElementById("cell-card"), said = await cardOf(row);
    if (!said || row !== hovered) return;  // the mouse has moved on
    const picture = document.createElement("img");
    picture.src = `/cells/${row}.png`;
    const lines = said.map(([name, value]) => {
      const line = document.createElement("div");
      line.textContent = name ? `${name}: ${value}` : value;
      if (!name) line.className = "id";
      return line;
    });
    card.replaceChildren(picture, ...lines);
    card.classList.add("shown");
    card.dataset.row = row;
    placeCard();
  }

  function placeCard() {
    const card = document.getElementById("cell-card"), gap = 16;
    const right = mouse.x + gap + card.offsetWidth < window.innerWidth;
    const below = mouse.y + gap + card.offsetHeight < window.innerHeight;
    card.style.left = `${right ? mouse.x + gap : mouse.x - gap - card.offsetWidth}px`;
    card.style.top = `${below ? mouse.y + gap : mouse.y - gap - card.offsetHeight}px`;
  }

  function hideCard() {
    hovered = null;
    const card = document.getElementById("cell-card");
    if (card) card.classList.remove("shown");
  }

  function bind(plot) {
    plot.dataset.bound = "yes";
    plot.on("plotly_hover", (event) => {
      const row = event.points[0].customdata;
      if (Number.isInteger(row)) showCard(row);
    });
    plot.on("plotly_unhover", hideCard);
    plot.on("plotly_relayout", (change) => {
      onDrawn(plot, change);
      onDragged(plot, change);
    });
  }

  new MutationObserver(() => {
    for (const plot of document.querySelectorAll(".graph .js-plotly-plot"))
      if (plot.on && !plot.dataset.bound) bind(plot);
  }).observe(document, {childList: true, subtree: true, attributes: true, attributeFilter: ["class"]});

  const ALIVE = 3000;  // milliseconds between two requests that test the server

  // A message disappears after a while; an error stays longer.
  let shownText = null;
  function fadeMessage() {
    const message = document.getElementById("message");
    if (!message || !message.classList.contains("shown") || message.textContent === shownText) return;
    const text = shownText = message.textContent;
    setTimeout(() => {
      if (message.textContent === text) message.classList.remove("shown");
      shownText = null;
    }, message.classList.contains("error") ? 12000 : 5000);
  }

  async function askServer() {
    let there = false;
    try {
      there = (await fetch("/cells/0.json", {cache: "no-store"})).ok;
    } catch { /* it is not */ }
    const banner = document.getElementById("offline");
    if (banner) banner.classList.toggle("shown", !there);
    setTimeout(askServer, ALIVE);
  }

  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(fadeMessage).observe(document.body, {childList: true, subtree: true,
      attributes: true, attributeFilter: ["class"], characterData: true});
    setTimeout(askServer, ALIVE);
  });
})();
