// A pipeline's schedule: what each rank computes when, how long it idles, and what it holds.
"use strict";

const NAMES = { F: "forward", B: "backward", I: "backward to the inputs", W: "backward to the weights" };
const LENGTH = { F: 1, B: 2, I: 1, W: 1 };
let chosen = {};
let shown = null; // the schedule: see read()

// From the letters of a rank's time its actions: kind, chunk (0 or 1), micro-batch, start and stop.
// Each kind takes the micro-batches in their order.
function actions(text) {
  const row = text.replace(/(\d+)(.)/g, (_, count, letter) => letter.repeat(count)), found = [], counts = {};
  for (let start = 0; start < row.length;) {
    const letter = row[start], kind = letter.toUpperCase();
    if (letter === ".") { start += 1; continue; }
    const number = counts[letter] = (counts[letter] ?? -1) + 1;
    found.push({ kind, chunk: letter === kind ? 0 : 1, number, start, stop: start + LENGTH[kind] });
    start += LENGTH[kind];
  }
  return { actions: found, length: row.length };
}

function read(name) {
  const [text, peaks, formula, chunks] = DATA[chosen.stages][name][chosen.micro_batches];
  const rows = text.split("|").map(actions), { length } = rows[0];
  const busy = rows.map((row) => row.actions.reduce((sum, each) => sum + each.stop - each.start, 0));
  const bubble = 1 - busy.reduce((sum, each) => sum + each) / (length * rows.length);
  return { name, rows: rows.map((row) => row.actions), length, bubble, peaks, formula, chunks };
}

// Micro-batches of all layers of a rank that it holds at this moment: from a forward's begin until
// the end of the backward, or of the backward to the weights.
function held(row, time) {
  const begun = row.filter((each) => each.kind === "F" && each.start <= time).length;
  const ended = row.filter((each) => "BW".includes(each.kind) && each.stop <= time).length;
  return (begun - ended) / shown.chunks;
}

const units = (time) => Number((time / shown.chunks).toFixed(1));
const label = (each) => `${each.number}${shown.chunks > 1 ? "ab"[each.chunk] : ""}`;
const percent = (part) => `${(100 * part).toFixed(1)} %`;

function doing(row, time) {
  const now = row.find((each) => each.start <= time && time < each.stop);
  if (!now) return time < row[0].start ? "waits for its first" : time >= row.at(-1).stop ? "is done" : "idles";
  const chunk = shown.chunks > 1 ? ` in its ${now.chunk ? "second" : "first"} chunk` : "";
  return `${NAMES[now.kind]} of micro-batch ${now.number}${chunk}`;
}

function draw(time) {
  const left = 56, right = 92, high = 34, pitch = high + 8, top = 24, { rows, length } = shown;
  const room = by("picture").parentElement.clientWidth - left - right - 4;
  const unit = Math.max(11, Math.min(34, room * shown.chunks / length)) / shown.chunks;
  const x = (at) => left + at * unit, end = x(length);
  clear(by("picture"), end + right, top + rows.length * pitch + 22, `${shown.name} of ${counted(rows.length, "rank")}, ${counted(Number(chosen.micro_batches), "micro-batch", "es")}: bubble ${percent(shown.bubble)}`);
  const svg = by("picture");
  add(svg, "text", { x: end + right, y: 12, class: "soft", "text-anchor": "end" }, "held now / most");
  rows.forEach((row, rank) => {
    const y = top + rank * pitch;
    add(svg, "text", { x: 0, y: y + 21, class: "name" }, `rank ${rank}`);
    add(svg, "rect", { x: left, y, width: end - left, height: high, class: "empty" });
    for (const each of row) {
      const width = (each.stop - each.start) * unit, shade = `${each.kind}${shown.chunks > 1 ? each.chunk : 0}`;
      add(svg, "rect", { x: x(each.start), y, width, height: high, class: "box", fill: `url(#${shade})` });
      if (width < 4 + 7 * label(each).length) continue;
      add(svg, "text", { x: x(each.start) + width / 2, y: y + 21, "text-anchor": "middle", style: `fill: ${INKS[shade]}` }, label(each));
    }
    add(svg, "text", { x: end + right, y: y + 21, "text-anchor": "end" }, `${held(row, time)} / ${shown.peaks[rank]}`);
  });
  const bottom = top + rows.length * pitch, apart = [1, 2, 5, 10, 20].find((each) => each * unit * shown.chunks > 28);
  for (let at = 0; at <= length / shown.chunks; at += apart) {
    add(svg, "path", { class: "line", d: `M${x(at * shown.chunks)} ${bottom - 4}v6` });
    add(svg, "text", { x: x(at * shown.chunks), y: bottom + 16, class: "soft", "text-anchor": "middle" }, at);
  }
  add(svg, "path", { class: "now", d: `M${x(Math.min(time + 0.5, length))} ${top - 6}V${bottom}` });
}

function key() {
  by("key").replaceChildren();
  const kinds = Object.keys(NAMES).filter((kind) => shown.rows.some((row) => row.some((each) => each.kind === kind)));
  const chunk = (number) => (shown.chunks > 1 ? [", first chunk (a)", ", second chunk (b)"][number] : "");
  const signs = kinds.flatMap((kind) => range(shown.chunks).map((number) => [`${kind}${number}`, NAMES[kind] + chunk(number)]));
  for (const [shade, text] of signs) {
    const item = add(by("key"), "li"), svg = add(item, "svg", { width: 22, height: 16, "aria-hidden": "true" });
    add(svg, "rect", { width: 22, height: 16, fill: `url(#${shade})` });
    add(item, "span", {}, ` ${text}`);
  }
}

function show(time) {
  const { rows, length } = shown, done = time === length;
  const idle = rows.filter((row) => !row.some((each) => each.start <= time && time < each.stop)).length;
  const each = rows.map((row, rank) => `rank ${rank}: ${doing(row, time)}`).join("; ");
  const end = `End: ${units(length)} units, ${percent(shown.bubble)} of all ranks' time was idle.`;
  steps.say(`time ${units(time)} of ${units(length)}`, done ? end : `Time ${units(time)} of ${units(length)}: ${each}. ${idle ? `${counted(idle, "rank")} without work.` : ""}`);
  draw(time);
}

function tables() {
  const names = Object.keys(DATA[chosen.stages]), all = names.map(read);
  by("compared").textContent = `All schedules, ${chosen.stages} stages and ${counted(Number(chosen.micro_batches), "micro-batch", "es")}`;
  const rows = all.map((each) => [each.name, Number((each.length / each.chunks).toFixed(1)), percent(each.bubble), Math.max(...each.peaks)]);
  table(by("schedules"), rows, [1, 2, 3], names.indexOf(chosen.schedule));
  const { formula } = shown, plain = !formula.startsWith("none");
  by("formula").textContent = `Bubble: ${percent(shown.bubble)} of ${units(shown.length)} units. Textbook: ${formula}${plain ? `, p stages, m micro-batches${shown.chunks > 1 ? ", v chunks" : ""}` : ""}.`;
}

const steps = new Steps(show);
const form = by("form").elements;
fill(form.stages, Object.fromEntries(Object.keys(DATA).map((stages) => [stages, stages])));
form.stages.value = "4";
fill(form.schedule, Object.fromEntries(Object.keys(DATA[4]).map((name) => [name, name])));
form.schedule.value = "1f1b";
fill(form.micro_batches, Object.fromEntries(Object.keys(DATA[4].gpipe).map((count) => [count, count])));
form.micro_batches.value = "8";
choices(by("form"), {}, (values) => {
  chosen = values;
  shown = read(chosen.schedule);
  steps.reset(shown.length);
  key();
  tables();
  show(0);
});
addEventListener("resize", () => draw(steps.at));
