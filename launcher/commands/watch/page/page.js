// Shows each event, which says all that there is, as text and pictures. What comes from the run is
// set as text, never read as HTML.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SAY_EVERY_MS = 20000; // for those who listen: no more often
const by = (id) => document.getElementById(id);
let latest = null; // the newest event
let view = null; // what is shown
let paused = false;
let said = { state: "", tenth: -1, at: -Infinity };

function add(parent, name, attributes, text) {
  const drawn = parent.namespaceURI === SVG;
  const made = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function set(id, text) {
  if (by(id).textContent !== text) by(id).textContent = text;
}

function list(id, lines) {
  if (by(id).dataset.shown === lines.join("\n")) return;
  by(id).dataset.shown = lines.join("\n");
  by(id).replaceChildren();
  for (const line of lines) add(by(id), "li", {}, line);
}

// Round numbers between two values, about as many as there is room for.
function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

// A chart of points [step, least, mean, most] and marks [step, value]; `cursor` is a step.
function draw(svg, points, marks, cursor) {
  const width = svg.clientWidth || 640, height = svg.clientHeight || 280;
  const left = 58, right = 14, top = 10, bottom = 26;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  if (!points.length) return;
  const values = points.flatMap((p) => [p[1], p[3]]).concat(marks.map((m) => m[1]));
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
  const first = Math.min(points[0][0], ...marks.map((m) => m[0]));
  const last = Math.max(points.at(-1)[0], first + 1);
  const x = (step) => left + (step - first) / (last - first) * (width - left - right);
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const place = (step, value) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
  const line = (pairs) => "M" + pairs.map(([step, value]) => place(step, value)).join("L");
  for (const value of ticks(low, high, height > 200 ? 6 : 4)) {
    add(svg, "path", { class: "grid", d: `M${left} ${y(value)}H${width - right}` });
    const text = Math.abs(value) >= 1000 ? value.toLocaleString("en") : String(value);
    add(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text);
  }
  for (const step of ticks(first, last, Math.max(3, Math.floor(width / 90)))) {
    const anchor = x(step) > width - 60 ? "end" : x(step) < left + 30 ? "start" : "middle";
    const text = (anchor === "end" ? "step " : "") + step.toLocaleString("en");
    add(svg, "text", { x: x(step), y: height - 6, "text-anchor": anchor }, text);
  }
  const around = points.map((p) => [p[0], p[3]]).concat(points.map((p) => [p[0], p[1]]).reverse());
  add(svg, "path", { class: "band", d: line(around) + "Z" });
  add(svg, "path", { class: "train", d: line(points.map((p) => [p[0], p[2]])) });
  if (marks.length) add(svg, "path", { class: "validation", d: line(marks) });
  for (const mark of marks) add(svg, "circle", { class: "mark", cx: x(mark[0]), cy: y(mark[1]), r: 3.5 });
  if (cursor !== undefined) add(svg, "path", { class: "cursor", d: `M${x(cursor)} ${top}V${height - bottom}` });
}

function charts() {
  const { loss, validation, speed } = view;
  const at = by("loss-at"), end = at.value === at.max;
  at.max = Math.max(loss.length - 1, 0);
  at.disabled = loss.length < 2;
  if (end) at.value = at.max;
  const point = loss[Number(at.value)];
  draw(by("loss"), loss, validation, end || !point ? undefined : point[0]);
  draw(by("speed"), speed.map(([step, value]) => [step, value, value, value]), []);
  if (!point) return;
  const before = validation.filter((mark) => mark[0] <= point[0]).at(-1);
  const spread = point[1] === point[3] ? "" : ` (${point[1]} to ${point[3]})`;
  const text = `step ${point[0].toLocaleString("en")}: loss ${point[2]}${spread}`
    + (before ? `, validation ${before[1]} after step ${before[0].toLocaleString("en")}` : "");
  set("loss-read", text);
  at.setAttribute("aria-valuetext", text);
  by("loss").setAttribute("aria-label", `loss by step, from ${loss[0][2]} to ${loss.at(-1)[2]}`);
  by("speed").setAttribute("aria-label", `tokens per second by step, last ${speed.at(-1)?.[1] ?? "not known"}`);
}

function ranks() {
  by("no-ranks").hidden = view.ranks.length > 0;
  document.querySelector(".scroll").hidden = view.ranks.length === 0;
  const body = by("ranks");
  while (body.rows.length > view.ranks.length) body.deleteRow(-1);
  view.ranks.forEach((one, number) => {
    const row = body.rows[number] || body.insertRow();
    const awaited = one.awaits === null ? "" : `rank ${one.awaits}`;
    const texts = [one.rank, one.state, awaited, one.spent, one.memory, one.doing];
    while (row.cells.length < texts.length) row.insertCell();
    row.dataset.state = one.state;
    texts.forEach((text, k) => { row.cells[k].textContent = text; });
  });
}

// Now and then, in one sentence, to those who listen.
function say() {
  const tenth = view.steps ? Math.floor(10 * view.step / view.steps) : 0;
  const news = view.state !== said.state || (tenth !== said.tenth && performance.now() > said.at + SAY_EVERY_MS);
  if (!news) return;
  said = { state: view.state, tenth, at: performance.now() };
  const loss = view.figures.find((figure) => figure[0] === "loss");
  set("said", view.says + (loss ? `, loss ${loss[1]}` : ""));
}

function show() {
  if (!latest || paused) return;
  view = latest;
  set("name", view.name);
  set("command", view.command);
  set("says", view.says);
  document.title = `${view.says} – ${view.name}`;
  const bar = by("progress");
  bar.hidden = !view.steps;
  if (view.steps) { bar.max = view.steps; bar.value = Math.min(view.step, view.steps); }
  list("notes", view.notes);
  list("waiting", view.waiting);
  const figures = by("figures");
  if (figures.children.length !== view.figures.length) figures.replaceChildren();
  view.figures.forEach(([name, text], number) => {
    const pair = figures.children[number] || add(figures, "div");
    if (!pair.children.length) { add(pair, "dt"); add(pair, "dd"); }
    pair.children[0].textContent = name;
    pair.children[1].textContent = text;
  });
  charts();
  ranks();
  say();
}

by("pause").addEventListener("click", () => {
  paused = !paused;
  by("pause").setAttribute("aria-pressed", String(paused));
  show();
});
by("loss-at").addEventListener("input", () => { if (view) charts(); });
addEventListener("resize", () => { if (view) charts(); });

const events = new EventSource("events");
events.onopen = () => set("link", "live");
events.onmessage = (event) => { latest = JSON.parse(event.data); show(); };
events.onerror = () => set("link", events.readyState === EventSource.CLOSED
  ? "this page is served no more; start ringlet watch again, and take the address that it shows"
  : "the connection is lost; trying again");
