// What takes a rank's memory, for a model on a mesh.
"use strict";

const PARTS = ["parameters", "gradients", "optimizer", "activations", "buffers"];
const LIMITS = [8, 16, 24, 40, 80, 141, 192];
let chosen = {};

const gigabytes = (megabytes) => (megabytes >= 1000 ? `${Number((megabytes / 1000).toPrecision(3)).toLocaleString("en")} GB` : `${Math.round(megabytes)} MB`);
const numbers = (text) => text.split(" ").map(Number);

// By rank of the pipeline, MB of each of PARTS; or why there are none.
function memory({ model, dp, tp, pp, cp, zero, again }) {
  const cut = DATA[model][`${tp},${pp}`];
  if (typeof cut === "string") return cut;
  const [whole, gathered, [bucket]] = cut.map(numbers);
  const [activations, buffers] = DATA[model][`${tp},${pp},${cp},${again}`].map(numbers);
  const ranks = dp * cp; // ZeRO shards over both
  return whole.map((size, rank) => [
    size / (zero >= 3 ? ranks : 1),
    size / (zero >= 2 ? ranks : 1),
    2 * size / (zero >= 1 ? ranks : 1), // two moments
    activations[rank],
    // A bucket of gradients on its way; and blocks that are whole for a while: their gradients,
    // with stage 3 their parameters too.
    buffers[rank] + (dp > 1 && cp == 1 ? bucket : 0) + (zero >= 2 ? (zero - 1) * gathered[rank] : 0),
  ]);
}

const total = (parts) => parts.reduce((sum, each) => sum + each, 0);

function draw(ranks) {
  const svg = by("picture"), left = 66, right = 76, high = 30, pitch = high + 8, limit = 1000 * chosen.limit;
  const room = Math.max(180, Math.min(1000, svg.parentElement.clientWidth - left - right));
  const longest = Math.max(...ranks.map(total)), span = Math.max(longest, Math.min(limit, 1.6 * longest));
  const x = (size) => left + size / span * room;
  clear(svg, left + room + right, ranks.length * pitch + 30, `Memory of ${counted(ranks.length, "stage")}, up to ${gigabytes(longest)}`);
  ranks.forEach((parts, rank) => {
    const y = rank * pitch + 4;
    add(svg, "text", { x: 0, y: y + 20, class: "name" }, `stage ${rank}`);
    let start = 0;
    parts.forEach((size, part) => {
      const width = x(start + size) - x(start), text = gigabytes(size);
      add(svg, "rect", { x: x(start), y, width, height: high, class: "box", fill: `url(#part${part})` });
      if (width > 7 * text.length + 6) add(svg, "text", { x: x(start) + width / 2, y: y + 20, "text-anchor": "middle", style: `fill: ${INKS[`part${part}`]}` }, text);
      start += size;
    });
    add(svg, "text", { x: x(start) + 8, y: y + 20 }, gigabytes(start));
  });
  if (limit > span) return;
  add(svg, "path", { class: "now", "stroke-dasharray": "5 3", d: `M${x(limit)} 0V${ranks.length * pitch + 6}` });
  const near = limit > span / 2;
  add(svg, "text", { x: x(limit), y: ranks.length * pitch + 22, "text-anchor": near ? "end" : "start" }, `${chosen.limit} GB`);
}

function show() {
  const { model, dp, tp, pp, cp, limit } = chosen, ranks = memory(chosen), possible = typeof ranks !== "string";
  const count = dp * tp * pp * cp, mesh = `${count === 1 ? "1 rank" : `${count.toLocaleString("en")} ranks`}: dp=${dp}, tp=${tp}, pp=${pp}, cp=${cp}`;
  if (!possible) {
    by("said").textContent = `${model} on ${mesh}: ${ranks}.`;
    clear(by("picture"), 1, 1, "nothing");
    by("ranks").replaceChildren();
    return;
  }
  const all = ranks.map(total), most = Math.max(...all), where = all.indexOf(most);
  const fits = most <= 1000 * limit ? `fits into ${limit} GB` : `does not fit into ${limit} GB`;
  const largest = PARTS[ranks[where].indexOf(Math.max(...ranks[where]))];
  by("said").textContent = `${model} on ${mesh}. A rank${pp > 1 ? ` of stage ${where}` : ""} needs ${gigabytes(most)}, most of it ${largest}: it ${fits}.`;
  by("compared").textContent = `${DATA[model].parameters.toLocaleString("en")} parameters, contexts of ${DATA[model].context.toLocaleString("en")} tokens: bytes on a rank of each stage`;
  table(by("ranks"), ranks.map((parts, rank) => [`stage ${rank}`, ...parts.map(gigabytes), gigabytes(total(parts))]), [1, 2, 3, 4, 5, 6]);
  draw(ranks);
}

const form = by("form").elements;
const same = (values) => Object.fromEntries(values.map((value) => [value, value]));
fill(form.model, same(Object.keys(DATA)));
form.model.value = "llama-7b";
for (const axis of ["tp", "pp", "cp"]) fill(form[axis], same([1, 2, 4, 8]));
fill(form.dp, same([1, 2, 4, 8, 16, 32, 64, 128]));
fill(form.limit, Object.fromEntries(LIMITS.map((size) => [size, `${size} GB`])));
form.limit.value = "80";
add(by("heads"), "td");
for (const part of [...PARTS, "together"]) add(by("heads"), "th", { scope: "col", class: "n" }, part);
PARTS.forEach((part, number) => {
  const item = add(by("key"), "li"), svg = add(item, "svg", { width: 22, height: 16, "aria-hidden": "true" });
  add(svg, "rect", { width: 22, height: 16, fill: `url(#part${number})` });
  add(item, "span", {}, ` ${part}`);
});
choices(by("form"), {}, (values) => {
  chosen = { model: values.model, ...Object.fromEntries(["dp", "tp", "pp", "cp", "zero", "again", "limit"].map((name) => [name, Number(values[name])])) };
  show();
});
addEventListener("resize", show);
