// A collective's rounds: who sends what to whom, what slots hold, and the time until then.
"use strict";

const dashed = (name) => name.replaceAll("_", "-");
const SUMS = ["all_reduce", "reduce_scatter"];
let chosen = {}; // the form's values
let shown = null; // the algorithm's data
let states = []; // by round: what each rank's slots hold, as sets of ranks in bits
let last = -1; // the round that was shown before

// What slots hold before and after; `undefined` is nothing, or whatever is left there.
function starts(rank, slot) {
  const owner = Math.floor(slot / (shown.slots / Number(chosen.ranks)));
  if (chosen.operation === "broadcast") return rank === 0 ? 1 : 0;
  return chosen.operation === "all_gather" && owner !== rank ? 0 : 1 << rank;
}

function ends(rank, slot) {
  const owner = Math.floor(slot / (shown.slots / Number(chosen.ranks)));
  if (chosen.operation === "broadcast") return 1;
  if (chosen.operation === "all_gather") return 1 << owner;
  return chosen.operation === "reduce_scatter" && owner !== rank ? undefined : (1 << Number(chosen.ranks)) - 1;
}

function transfers(round) {
  const [text] = shown.rounds[round - 1];
  return range(text.length / 4).map((number) => {
    const [sender, receiver, slot] = [...text.substr(4 * number, 3)].map((digit) => parseInt(digit, 36));
    return { sender, receiver, slot, adds: text[4 * number + 3] === "+" };
  });
}

function replay() {
  const ranks = range(Number(chosen.ranks)), slots = range(shown.slots);
  states = [ranks.map((rank) => slots.map((slot) => starts(rank, slot)))];
  for (const round of range(shown.rounds.length)) {
    const before = states[round], after = before.map((row) => [...row]);
    for (const { sender, receiver, slot, adds } of transfers(round + 1)) {
      after[receiver][slot] = (adds ? after[receiver][slot] : 0) | before[sender][slot];
    }
    states.push(after);
  }
}

const rate = (value) => (value >= 1e9 ? `${value / 1e9} GB/s` : `${value / 1e6} MB/s`);

// Seconds of so many latencies and so many parts of the array.
const network = () => ({
  size: 2 ** chosen.size, latency: round(1e-6, Number(chosen.latency)), bandwidth: round(1e7, Number(chosen.bandwidth)),
});

function until(algorithm, count) {
  if (!count) return 0;
  const { size, latency, bandwidth } = network();
  const slot = size / algorithm.slots / bandwidth;
  return Math.max(...algorithm.rounds[count - 1][1].map(([latencies, slots]) => latencies * latency + slots * slot));
}

function textbook(algorithm) {
  const { size, latency, bandwidth } = network();
  return algorithm.textbook[2] * latency + algorithm.textbook[3] * size / bandwidth;
}

const holders = (held) => range(Number(chosen.ranks)).filter((rank) => held >> rank & 1);
const listed = (ranks) => ranks.length > 1 ? `${ranks.slice(0, -1).join(", ")} and ${ranks.at(-1)}` : ranks.join();

// "rank 0 sends slot 3 to rank 1, which adds it", those of a pair of ranks together.
function sentences(at) {
  const pairs = new Map();
  for (const { sender, receiver, slot, adds } of transfers(at)) {
    const key = `rank ${sender} sends|to rank ${receiver}, which ${adds ? "adds" : "keeps"}`;
    pairs.set(key, [...(pairs.get(key) || []), slot]);
  }
  return [...pairs].map(([key, slots]) => {
    const [who, whom] = key.split("|");
    return `${who} ${slots.length > 1 ? "slots" : "slot"} ${listed(slots)} ${whom} ${slots.length > 1 ? "them" : "it"}`;
  });
}

// Vertical arrows in a column, those that would cross each other beside each other.
function lanes(column) {
  const found = [];
  for (const each of column) {
    const [top, bottom] = [Math.min(each.sender, each.receiver), Math.max(each.sender, each.receiver)];
    let lane = found.findIndex((spans) => spans.every(([a, b]) => bottom <= a || b <= top));
    if (lane < 0) lane = found.push([]) - 1;
    found[lane].push([top, bottom]);
    each.lane = lane;
  }
  return found.length;
}

function draw(at) {
  const ranks = Number(chosen.ranks), { slots } = shown, state = states[at];
  const left = 56, high = Math.max(36, 5 * ranks), pitch = high + 28, top = 20;
  const room = by("picture").parentElement.clientWidth - left - 8;
  const wide = Math.max(9, Math.min(slots === 1 ? 240 : 84, room / slots));
  const x = (slot) => left + slot * wide, y = (rank) => top + rank * pitch;
  const words = at ? `after round ${at}` : "at the start";
  clear(by("picture"), left + slots * wide + 8, y(ranks) - 18, `What ${ranks} ranks hold in ${counted(slots, "slot")} each ${words}`);
  const svg = by("picture");
  for (const slot of range(wide > 14 ? slots : 0)) add(svg, "text", { x: x(slot) + wide / 2, y: top - 6, class: "soft", "text-anchor": "middle" }, slot);
  for (const rank of range(ranks)) {
    add(svg, "text", { x: 0, y: y(rank) + high / 2 + 4, class: "name" }, `rank ${rank}`);
    for (const slot of range(slots)) {
      const held = state[rank][slot], box = { x: x(slot) + 1, y: y(rank), width: wide - 2 };
      add(svg, "rect", { ...box, height: high, class: "empty" });
      const sums = SUMS.includes(chosen.operation);
      for (const one of holders(held)) {
        const stripe = sums ? { y: y(rank) + one * high / ranks, height: high / ranks } : { height: high };
        add(svg, "rect", { ...box, ...stripe, style: `fill: var(--rank-${one})`, "shape-rendering": "crispEdges" });
      }
      if (held === ends(rank, slot)) add(svg, "rect", { ...box, height: high, class: "done" });
    }
  }
  const columns = new Map();
  for (const each of at ? transfers(at) : []) columns.set(each.slot, [...(columns.get(each.slot) || []), each]);
  for (const [slot, column] of columns) {
    const count = lanes(column);
    for (const { sender, receiver, lane, adds } of column) {
      const down = receiver > sender, across = x(slot) + (lane + 0.5) * wide / count;
      const from = y(sender) + (down ? high + 1 : -1), to = y(receiver) + (down ? -2 : high + 2), neck = to + (down ? -7 : 7);
      const tip = Math.min(4.5, wide / count / 2 + 1), kind = at === last + 1 ? "arrow new" : "arrow";
      add(svg, "path", { class: "halo", d: `M${across} ${from}V${to}` });
      add(svg, "path", {
        class: kind, d: `M${across} ${from}V${neck}`, style: `stroke: var(--rank-${sender})`, "stroke-dasharray": adds ? "none" : "4 3",
      });
      add(svg, "path", { d: `M${across - tip} ${neck}h${2 * tip}L${across} ${to}z`, style: `fill: var(--rank-${sender})` });
    }
  }
}

// The rounds on a line, as long as they take, and where the textbook says it ends.
function clock(at) {
  const times = range(shown.rounds.length + 1).map((count) => until(shown, count)), book = textbook(shown);
  const width = Math.max(300, Math.min(760, by("clock").parentElement.clientWidth)), longest = Math.max(times.at(-1), book);
  const x = (time) => 1 + time / longest * (width - 2), svg = by("clock");
  clear(svg, width, 62, `${seconds(times[at])} of ${seconds(times.at(-1))}; by the textbook ${seconds(book)}`);
  for (const count of range(shown.rounds.length)) {
    const box = { x: x(times[count]), y: 8, width: Math.max(0, x(times[count + 1]) - x(times[count])), height: 20 };
    add(svg, "rect", { ...box, class: "box", style: `fill: var(${count < at ? "--rank-0" : "--faint"})` });
  }
  add(svg, "path", { class: "now", d: `M${x(book)} 3v30` });
  const near = x(book) > width / 2;
  add(svg, "text", { x: x(book), y: 46, "text-anchor": near ? "end" : "start" }, `textbook ${seconds(book)}`);
  add(svg, "text", { x: near ? 0 : width, y: 46, "text-anchor": near ? "start" : "end" }, `now ${seconds(times[at])}`);
}

function tables(at) {
  const { size, latency, bandwidth } = network(), names = Object.keys(DATA[chosen.ranks][chosen.operation]);
  const all = names.map((name) => [name, DATA[chosen.ranks][chosen.operation][name]]);
  const best = Math.min(...all.map(([, each]) => until(each, each.rounds.length)));
  by("compared").textContent = `${dashed(chosen.operation)} of ${bytes(size)} over ${chosen.ranks} ranks, ${seconds(latency)} and ${rate(bandwidth)}`;
  table(by("algorithms"), all.map(([name, each]) => {
    const time = until(each, each.rounds.length), fastest = time === best ? " (fastest)" : "";
    return [dashed(name) + fastest, seconds(time), seconds(textbook(each)), each.rounds.length, Number(each.textbook[3].toFixed(3))];
  }), [1, 2, 3, 4], names.indexOf(chosen.algorithm));
  const [rounds, volume, count, arrays] = shown.textbook;
  by("formula").textContent = `Textbook, ${dashed(chosen.algorithm)}: ${count} latencies (${rounds}) and ${Number(arrays.toFixed(3))} arrays (${volume}): `
    + `${count} × ${seconds(latency)} + ${Number(arrays.toFixed(3))} × ${bytes(size)} / ${rate(bandwidth)} = ${seconds(textbook(shown))}.`;
  by("slots").replaceChildren();
  add(by("slots"), "td");
  for (const slot of range(shown.slots)) add(by("slots"), "th", { scope: "col" }, `slot ${slot}`);
  table(by("held"), states[at].map((row, rank) => [`rank ${rank}`, ...row.map((held, slot) => {
    const ranks = holders(held);
    return ranks.length ? `${ranks.join(" ")}${held === ends(rank, slot) ? " (done)" : ""}` : "nothing";
  })]), []);
}

function show(at) {
  const rounds = shown.rounds.length, time = `${seconds(until(shown, at))} of ${seconds(until(shown, rounds))}`;
  const sent = at ? sentences(at) : [];
  by("sent").replaceChildren();
  for (const line of sent) add(by("sent"), "li", {}, line);
  const done = states[at].every((row, rank) => row.every((held, slot) => [undefined, held].includes(ends(rank, slot))));
  const first = sent[0] ? `: ${sent[0]}${sent.length > 1 ? `, and ${sent.length - 1} more ${sent.length > 2 ? "send" : "sends"} likewise` : ""}` : "";
  const start = `Start: ${chosen.operation === "broadcast" ? "rank 0 has the array" : chosen.operation === "all_gather" ? "each rank has its own part" : "each slot holds its own rank's contribution"}`;
  steps.say(at ? `round ${at} of ${rounds}` : "start", `${at ? `Round ${at} of ${rounds}${first}` : start}. ${time}${done ? "; done" : ""}.`);
  draw(at);
  clock(at);
  tables(at);
  last = at;
}

const steps = new Steps(show);
const form = by("form").elements;
fill(form.ranks, Object.fromEntries(Object.keys(DATA).map((ranks) => [ranks, ranks])));
form.ranks.value = "4";
fill(form.operation, Object.fromEntries(Object.keys(DATA[4]).map((name) => [name, dashed(name)])));
const words = { size: (power) => bytes(2 ** power), latency: (number) => seconds(round(1e-6, number)), bandwidth: (number) => rate(round(1e7, number)) };
const read = choices(by("form"), words, (values) => {
  const names = Object.keys(DATA[values.ranks][values.operation]);
  fill(form.algorithm, Object.fromEntries(names.map((name) => [name, dashed(name)])));
  chosen = { ...values, algorithm: form.algorithm.value };
  const now = DATA[chosen.ranks][chosen.operation][chosen.algorithm];
  if (now !== shown) {
    shown = now;
    last = -1;
    replay();
    steps.reset(shown.rounds.length);
  }
  show(steps.at);
});
addEventListener("resize", () => show(steps.at));
