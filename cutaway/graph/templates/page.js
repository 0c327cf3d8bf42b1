"use strict";
// The picture in the browser: the same sums as in place.py, done again whenever a module is opened or closed.
const data = JSON.parse(document.getElementById("data").textContent);
const { boxes, sizes: Z, statistics } = data;
for (const name in statistics) statistics[name].values = statistics[name].values.map((v) => (typeof v === "string" ? Number(v.replace("inf", "Infinity")) : v));
const $ = (id) => document.getElementById(id);
const state = { open: new Set(data.open), unfolded: new Set(), color: data.color, pass: "forward", chosen: -1, x: 0, y: 0, k: 1 };

// ---- places: sizes of columns and rows from the boxes, positions by summing up ----
function frame(grid, sizes, root, ports) {
  const widths = Array(grid.columns).fill(Z.LANE);
  sizes.forEach(([w], i) => { const [, a, b] = grid.cells[i]; if (a === b) widths[a] = Math.max(widths[a], w); });
  sizes.forEach(([w], i) => {
    const [, a, b] = grid.cells[i];
    let missing = w - Z.ACROSS * (b - a);
    for (let c = a; c <= b; c++) missing -= widths[c];
    if (missing > 0) for (let c = a; c <= b; c++) widths[c] += missing / (b - a + 1);
  });
  const pad = root ? 0 : Z.PAD, head = root ? 0 : Z.HEAD, lefts = [];
  let x = pad;
  for (const w of widths) { lefts.push(x); x += w + Z.ACROSS; }
  const heights = Array(grid.rows).fill(0);
  sizes.forEach(([, h], i) => { const r = grid.cells[i][0]; heights[r] = Math.max(heights[r], h); });
  const tops = [];
  let y = ports[0] ? head - Z.DOWN + 6 : head;
  heights.forEach((h, r) => { tops.push(y); y += h + (r < grid.rows - 2 || !ports[1] ? Z.DOWN : Z.PAD); });
  const bottoms = tops.map((t, r) => t + heights[r]);
  return {
    centres: grid.cells.map(([, a, b]) => (lefts[a] + lefts[b] + widths[b]) / 2), tops, bottoms,
    columns: lefts.map((l, c) => l + widths[c] / 2), width: x - Z.ACROSS + pad,
    height: (bottoms.length ? bottoms[bottoms.length - 1] : head) + (ports[1] ? 0 : pad),
  };
}

function widen(made, least) {
  const extra = Math.max(0, least - made.width) / 2;
  return { ...made, centres: made.centres.map((v) => v + extra), columns: made.columns.map((v) => v + extra), width: made.width + 2 * extra };
}

function measure(i) {
  const b = boxes[i];
  if (b.type === "fold" && !state.unfolded.has(i)) {
    const shown = measure(b.inner[0]), own = boxes[shown.i];
    const label = shown.frame ? Z.label * own.label.length : 0;
    const least = Z.name * own.lines[0][1].length + label + Z.badge * b.badge.length + 36;
    shown.badge = b.badge;
    shown.fold = i;
    if (shown.frame) shown.frame = widen(shown.frame, least);
    shown.w = Math.max(shown.w, least);
    return shown;
  }
  if (!b.inner.length || !(state.open.has(i) || b.type === "fold" || b.type === "group")) return { i, w: b.width, h: b.height, badge: "" };
  const inner = b.inner.map(measure);
  const port = (n) => Array(n).fill([0, 0]);
  const sizes = [...port(b.entering.length), ...inner.map((p) => [p.w, p.h]), ...port(b.leaving.length)];
  let made = frame(b.grid, sizes, i === 0, [b.entering.length > 0, b.leaving.length > 0]);
  if (i !== 0) made = widen(made, Z.name * b.lines[0][1].length + Z.label * b.label.length + 24);
  return { i, w: made.width, h: made.height, frame: made, inner, badge: "" };
}

function move(p, x, y) {
  p.x = x; p.y = y;
  if (!p.frame) return;
  const b = boxes[p.i];
  p.inner.forEach((child, n) => {
    const at = b.entering.length + n;
    move(child, x + p.frame.centres[at] - child.w / 2, y + p.frame.tops[b.grid.cells[at][0]]);
  });
}

// ---- connections ----
const n1 = (v) => String(Math.round(v * 10) / 10);

function port(p, signal) {  // where a signal leaves an open box: its own port; anything else: the middle
  const b = boxes[p.i];
  if (p.frame) {
    const shown = p.fold !== undefined && !b.leaving.includes(signal) ? twin(p.fold, signal) : signal;
    const at = b.leaving.indexOf(shown);
    if (at >= 0) return p.x + p.frame.centres[b.entering.length + p.inner.length + at];
  }
  return p.x + p.w / 2;
}

function leavesOf(i) { const b = boxes[i]; return b.inner.length ? b.inner.flatMap(leavesOf) : [i]; }

function twin(fold, signal) {
  for (const copy of boxes[fold].inner) {
    const at = leavesOf(copy).indexOf(signal);
    if (at >= 0) return leavesOf(boxes[fold].inner[0])[at];
  }
  return signal;
}

function wires(p, found = []) {
  if (!p.frame) return found;
  const b = boxes[p.i], g = b.grid, f = p.frame, first = b.entering.length, last = first + p.inner.length;
  const top = (r) => p.y + f.tops[r], bottom = (r) => p.y + f.bottoms[r];
  const arrivals = {};
  b.nets.forEach(([source, targets], k) => {
    for (const t of targets) {
      const lane = g.lanes[k][g.cells[t][0] - 1];
      (arrivals[t] ||= []).push([lane === undefined ? f.centres[source] : f.columns[lane], k]);
    }
  });
  for (const t in arrivals) arrivals[t] = arrivals[t].sort((a, c) => a[0] - c[0] || a[1] - c[1]).map((a) => a[1]);
  const step = (from, row, to, begins) => {
    const edge = Math.max(bottom(row), from[1]);
    let path = begins ? `M${n1(from[0])} ${n1(from[1])}` : "";
    if (edge > from[1]) path += `V${n1(edge)}`;
    if (Math.abs(from[0] - to[0]) < 0.5) return `${path}V${n1(to[1])}`;
    const middle = n1((edge + to[1]) / 2);
    return `${path}C${n1(from[0])} ${middle} ${n1(to[0])} ${middle} ${n1(to[0])} ${n1(to[1])}`;
  };
  b.nets.forEach(([source, targets], k) => {
    const lane = g.lanes[k], signal = b.signals[k], row = g.cells[source][0], from = p.inner[source - first];
    const start = source < first ? [p.x + f.centres[source], p.y] : [port(from, signal), from.y + from.h];
    const trunk = { [row]: start };
    const origin = source < first ? -1 : from.i, up = source < first || from.frame ? null : start;
    let path = "";
    for (const passed of Object.keys(lane).map(Number).sort((a, c) => a - c)) {
      const x = p.x + f.columns[lane[passed]];
      path += `${step(trunk[passed - 1], passed - 1, [x, top(passed)], !path)}V${n1(bottom(passed))}`;
      trunk[passed] = [x, bottom(passed)];
    }
    if (path) found.push({ path, skip: true, tip: null, up, from: origin, to: -1 });
    for (const t of targets) {
      let end, tip = null, goal = -1, slope = "", left = false;
      if (t >= last) end = [p.x + f.centres[t], p.y + p.h];
      else {
        const child = p.inner[t - first];
        goal = child.i;
        if (child.frame) {
          const at = boxes[child.i].entering.indexOf(signal);
          end = [at >= 0 ? child.x + child.frame.centres[at] : child.x + child.w / 2, child.y];
        } else {
          const order = arrivals[t], outer = order.length === 1 || k === order[0] || k === order[order.length - 1];
          slope = (outer && boxes[child.i].slopes && boxes[child.i].slopes[signal]) || "";
          left = order.length > 1 && k === order[0];
          const gap = Math.min(Z.SPREAD, 0.7 * child.w / order.length);
          end = tip = [child.x + child.w / 2 + (order.indexOf(k) - (order.length - 1) / 2) * gap, child.y];
        }
      }
      const above = g.cells[t][0] - 1, known = above in trunk;
      const branch = step(known ? trunk[above] : start, known ? above : row, end, true);
      found.push({ path: branch, skip: above !== row, tip, up, from: origin, to: goal, slope, left });
    }
  });
  for (const child of p.inner) wires(child, found);
  return found;
}

// ---- numbers and colours ----
function short(v) {
  if (v === null || v === undefined) return "–";
  if (!isFinite(v)) return String(v);
  const a = Math.abs(v);
  if (a < 999.5) return v === 0 ? "0" : String(Number(v.toPrecision(3)));
  const power = Math.min(Math.floor(Math.log10(a / 999.5) / 3) + 1, 5), s = v / 1000 ** power;
  return s.toFixed(Math.abs(s) < 9.995 ? 2 : Math.abs(s) < 99.95 ? 1 : 0) + "kMGTP"[power - 1];
}
const unit = (name) => statistics[name].unit;
const words = (name) => name.replaceAll("_", " ");

function scale(name, most) {  // up to the largest box, or to `most`
  const { low, log } = statistics[name], high = most ?? statistics[name].high;
  return (v) => {
    if (v === null) return 0;
    if (!isFinite(v)) return 1;
    if (high <= low) return v >= high && high > 0 ? 1 : 0;
    const c = Math.min(Math.max(v, low), high);
    return log ? Math.log(c / low) / Math.log(high / low) : (c - low) / (high - low);
  };
}
function shade(i) {
  const v = statistics[state.color].values[i];
  return v === null ? "q-none" : `q${Math.min(8, Math.floor(9 * scale(state.color)(v)))}`;
}

// ---- drawing ----
const esc = (s) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
const rect = (x, y, w, h, c, r = 5) => `<rect class="${c}" x="${n1(x)}" y="${n1(y)}" width="${n1(w)}" height="${n1(h)}" rx="${r}"/>`;
const clip = (text, style, w) => { const most = Math.floor((w - 2 * Z.MARGIN) / Z[style] + 0.5); return text.length <= most ? text : `${text.slice(0, Math.max(1, most - 1))}…`; };

function badge(p) {
  if (!p.badge) return "";
  return `<text class="badge click" data-unfold="${p.fold}" text-anchor="end" x="${n1(p.x + p.w - Z.MARGIN)}" y="${n1(p.y + Z.LINE + 1)}">${esc(p.badge)}<title>Show every copy</title></text>`;
}

function backLines(b) {  // what the box of a backward pass says
  const back = b.back || {};
  return [["name", `∂ ${b.lines[0][1]}`], ["label", b.mark || ""], ["facts", back.work ? `${short(back.work)} mult-adds` : ""]]
    .filter(([, text]) => text).slice(0, Math.max(1, b.lines.length));
}

function drawBoxes(p, out, mirror) {
  const b = boxes[p.i];
  if (p.frame) {
    if (p.i !== 0) {
      const name = mirror ? `∂ ${b.lines[0][1]}` : b.lines[0][1];
      const label = b.label === b.lines[0][1] || mirror ? "" : ` <tspan class="label">${esc(b.label)}</tspan>`;
      const act = b.type === "fold" ? `data-refold="${p.i}"` : `data-close="${p.i}"`;
      const text = b.type === "fold" ? `${esc(name)} <tspan class="label">all copies, close</tspan>` : esc(name) + label;
      out.push(`<text class="name head click" ${act} x="${n1(p.x + Z.PAD)}" y="${n1(p.y + Z.HEAD - 8)}">${text}</text>${badge(p)}`);
    }
    for (const child of p.inner) drawBoxes(child, out, mirror);
    return;
  }
  const ends = b.kind === "input" || b.kind === "output";
  const classes = `k-${b.kind}${state.color && !ends ? ` ${shade(p.i)}` : ""}`;
  const mark = state.pass === "forward" ? "" : ` ${b.mark.replaceAll(" ", "-")}`;
  const chosen = p.i === state.chosen ? " chosen" : "";
  const radius = ends ? 11 : 5;
  out.push(`<g class="box${b.inner.length ? " opens" : ""}${mark}${chosen}" data-i="${p.i}">`);
  if (p.badge) out.push(rect(p.x + 4, p.y + 4, p.w, p.h, classes, radius));
  out.push(rect(p.x, p.y, p.w, p.h, classes, radius));
  (mirror ? backLines(b) : b.lines).forEach(([style, text], row) => {
    const shown = mirror ? clip(text, style, p.w) : text;
    out.push(`<text class="${style}" x="${n1(p.x + Z.MARGIN)}" y="${n1(p.y + Z.LINE * (row + 1) + 1)}">${esc(shown)}</text>`);
  });
  out.push(`${mirror ? "" : badge(p)}</g>`);
}

function drawFrames(p, out) {
  if (!p.frame) return;
  if (p.i !== 0) {
    if (p.badge) out.push(rect(p.x + 4, p.y + 4, p.w, p.h, "frame"));
    out.push(rect(p.x, p.y, p.w, p.h, "frame"));
  }
  for (const child of p.inner) drawFrames(child, out);
}

const takesPart = (i) => i < 0 || !["pruned", "forward only"].includes(boxes[i].mark);

function drawWires(list, out, mirror) {
  const tips = new Set();
  for (const w of list) {
    const skip = w.skip ? " skip" : "";
    if (mirror && !(takesPart(w.from) && takesPart(w.to))) continue;
    out.push(`<path class="wire${skip}" d="${w.path}"/>`);
    if (!mirror && w.tip) out.push(`<path class="tip${skip}" d="M${n1(w.tip[0])} ${n1(w.tip[1])}l-3.5-6h7z"/>`);
    if (mirror && w.up && !tips.has(`${w.up}`)) {
      tips.add(`${w.up}`);
      out.push(`<path class="tip" d="M${n1(w.up[0])} ${n1(w.up[1])}l-3.5 6h7z"/>`);
    }
  }
}

function keeps(p, found = new Map()) {  // the closed boxes that keep values, by their height in the picture
  if (p.frame) for (const child of p.inner) keeps(child, found);
  else {
    const back = boxes[p.i].back, y = n1(p.y + p.h / 2);
    if (back && back.kept && takesPart(p.i)) found.set(y, [...(found.get(y) || []), p]);
  }
  return found;
}
function drawKept(out, shift) {  // what the backward pass keeps of the forward pass, across
  for (const [y, row] of keeps(placed)) {
    for (const p of row) out.push(`<path class="kept" d="M${n1(p.x + p.w)} ${y}H${n1(p.x + shift)}"/>`);
    const total = row.reduce((sum, p) => sum + boxes[p.i].back.kept, 0);
    out.push(`<text class="keeps" x="${n1(placed.w + 10)}" y="${n1(y - 3)}">${short(total)}B</text>`);
  }
}

function drawSlopes(list, out) {  // local derivatives beside the arrows
  for (const w of list) if (w.slope) {
    const width = 5.8 * w.slope.length + 2, x = w.left ? w.tip[0] - 6 - width : w.tip[0] + 6;
    out.push(`${rect(x, w.tip[1] - 13, width, 11, "paper", 0)}<text class="slope" x="${n1(x + 1)}" y="${n1(w.tip[1] - 4)}">${esc(w.slope)}</text>`);
  }
}

let placed;
function draw() {
  placed = measure(0);
  move(placed, 0, 0);
  const list = wires(placed), out = [], shift = placed.w + 76, both = state.pass === "both";
  const side = (mirror, x) => {
    out.push(`<g transform="translate(${x} 0)">`);
    drawFrames(placed, out);
    drawWires(list, out, mirror);
    drawBoxes(placed, out, mirror);
    if (!mirror) drawSlopes(list, out);
    out.push("</g>");
  };
  if (both) drawKept(out, shift);
  if (state.pass !== "backward") side(false, 0);
  if (state.pass !== "forward") side(true, both ? shift : 0);
  state.width = placed.w + (both ? shift : 0);
  $("graph").innerHTML = out.join("");
  look();
}

// ---- the strip under the graph, and the legend ----
const KINDS = [["product", "convolution, matrix product"], ["activation", "activation"], ["norm", "normalisation"], ["pool", "pooling, mean"],
  ["join", "sum, concatenation"], ["arithmetic", "other arithmetic"], ["move", "moves only"], ["module", "module, opens"]];
const MARKS = [["replaced", "replaced rule"], ["fallback", "fallback (local vjp)"], ["forward-only", "forward only"], ["pruned", "pruned: never run"]];
const swatch = (inner) => `<svg class="cutaway-graph" style="width:16px;height:14px;vertical-align:-2px" viewBox="0 0 16 14">${inner}</svg> `;

function strip() {
  const name = state.color || (statistics.multiply_adds ? "multiply_adds" : Object.keys(statistics)[0]);
  const leaves = data.order.filter((i) => name && statistics[name].values[i] !== null);
  const most = Math.max(...leaves.map((i) => statistics[name].values[i]).filter(isFinite)), part = name && scale(name, most), step = 1000 / Math.max(leaves.length, 1);
  $("strip").setAttribute("viewBox", "0 0 1000 40");
  $("strip").setAttribute("preserveAspectRatio", "none");
  $("strip").innerHTML = leaves.map((i, at) => {
    const v = statistics[name].values[i], h = 2 + 38 * part(v), x = (at * step).toFixed(2), w = (step * 0.86).toFixed(2);
    const classes = `bar${state.color ? ` q${Math.max(3, Math.min(8, Math.floor(9 * scale(name)(v))))}` : ""}${i === state.chosen ? " chosen" : ""}`;
    return `<g data-i="${i}"><rect class="reach" x="${x}" y="0" width="${w}" height="40"/><rect class="${classes}" x="${x}" y="${n1(40 - h)}" width="${w}" height="${n1(h)}"/></g>`;
  }).join("");
  const parts = [];
  if (state.color) {
    const { low, high, log } = statistics[name];
    const bar = Array.from({ length: 9 }, (_, q) => `<rect class="bar q${q}" x="${q * 10}" y="0" width="10" height="10"/>`).join("");
    parts.push(`<span>${esc(words(name))} ${short(low)}${unit(name)} <svg class="cutaway-graph" viewBox="0 0 90 10" preserveAspectRatio="none">${bar}</svg> ${short(high)}${unit(name)}${log ? ", logarithmic" : ""}</span>`);
    parts.push("<span>modules show the " + (statistics[name].summed ? "sum" : "largest") + "</span>");
  } else {
    const seen = new Set(boxes.map((b) => b.kind));
    for (const [kind, text] of KINDS) if (seen.has(kind)) parts.push(`<span>${swatch(rect(1, 1, 14, 12, `k-${kind}`, 3))}${text}</span>`);
    if (name) parts.push(`<span>bars: ${esc(words(name))} in order of computation</span>`);
  }
  if (state.pass !== "forward") {
    const seen = new Set(boxes.map((b) => b.mark.replaceAll(" ", "-")));
    for (const [mark, text] of MARKS) if (seen.has(mark)) parts.push(`<span>${swatch(`<g class="box ${mark}">${rect(2, 2, 12, 10, "k-module", 3)}</g>`)}${text}</span>`);
    if (state.pass === "both") parts.push("<span>dotted: values kept for the backward pass</span>");
  }
  $("legend").innerHTML = parts.join("");
}

// ---- details of one box ----
function details(i) {
  if (i < 0) { $("details").innerHTML = window.innerWidth > 760 ? `<p class="what">Point at a box for its numbers. Click a white box to open it, its name to close it; drag and scroll to move about.</p>` : ""; return; }
  const b = boxes[i], rows = [];
  if (b.shape) rows.push(["output", b.shape]);
  for (const name in statistics) {
    const v = statistics[name].values[i];
    if (v !== null && (v !== 0 || name === state.color)) rows.push([words(name), statistics[name].whole ? v.toLocaleString("en") + (unit(name) && ` ${unit(name)}`) : short(v) + unit(name)]);
  }
  if (b.mark) rows.push(["backward", b.mark]);
  for (const [what, bytes] of (b.back && b.back.reads) || []) rows.push([`keeps ${what}`, bytes === null ? "" : `${short(bytes)}B`]);
  $("details").innerHTML = `<h2>${esc(b.path || b.label)}</h2><p class="what">${esc(b.label)}${b.badge ? ` ${esc(b.badge)}` : ""}</p><table>`
    + rows.map(([k, v]) => `<tr><td>${esc(k)}</td><td>${esc(String(v))}</td></tr>`).join("") + "</table>"
    + (b.source ? `<code>${esc(b.source)}</code>` : "");
}

// ---- moving about ----
const SMALLEST = 0.7;
function look() { $("graph").setAttribute("transform", `translate(${state.x.toFixed(2)} ${state.y.toFixed(2)}) scale(${state.k.toFixed(4)})`); }
function fit(all) {
  const r = $("stage").getBoundingClientRect(), wide = (r.width - 24) / state.width;
  state.k = Math.min(1.25, wide, all ? (r.height - 24) / placed.h : Infinity);
  const first = placed.inner ? placed.inner[0] : placed, least = state.pass === "both" ? SMALLEST - 0.2 : SMALLEST, small = !all && wide < least;
  if (small) state.k = least;  // better to start at the input than with letters too small to read
  state.x = small ? r.width / 2 - (first.x + first.w / 2) * state.k : (r.width - state.width * state.k) / 2;
  state.y = all ? Math.max(12, (r.height - placed.h * state.k) / 2) : 12;
  look();
}
function zoom(by, cx, cy) {
  const k = Math.min(6, Math.max(0.03, state.k * by));
  state.x = cx - (cx - state.x) * (k / state.k);
  state.y = cy - (cy - state.y) * (k / state.k);
  state.k = k;
  look();
}
const centre = () => { const r = $("stage").getBoundingClientRect(); return [r.width / 2, r.height / 2]; };

function find(p, i) {  // the place of a box, or of the closed box or fold around it
  if (p.i === i || p.fold === i) return p;
  for (const child of p.inner || []) { const hit = find(child, i); if (hit) return hit; }
  return null;
}
function reveal(i) {
  for (let b = boxes[i].parent; b >= 0; b = boxes[b].parent) {
    if (boxes[b].type === "module") state.open.add(b);
    if (boxes[b].type === "fold" && !within(boxes[b].inner[0], i)) state.unfolded.add(b);
  }
  state.chosen = i;
  draw();
  const p = find(placed, i), r = $("stage").getBoundingClientRect();
  if (p) { state.k = Math.max(state.k, 0.7); state.x = r.width / 2 - (p.x + p.w / 2) * state.k; state.y = r.height / 3 - p.y * state.k; look(); }
  strip();
  details(i);
}
const within = (outer, i) => { for (let b = i; b >= 0; b = boxes[b].parent) if (b === outer) return true; return false; };

function steady(i, change) {  // change something and keep a box where it is on the screen
  const before = find(placed, i), at = before && [before.x * state.k + state.x, before.y * state.k + state.y];
  change();
  draw();
  const after = find(placed, i);
  if (at && after) { state.x = at[0] - after.x * state.k; state.y = at[1] - after.y * state.k; look(); }
}
function level(deeper) {
  const depth = (i) => { let d = 0; for (let b = boxes[i].parent; b >= 0; b = boxes[b].parent) d += boxes[b].type === "module"; return d; };
  const modules = boxes.map((b, i) => i).filter((i) => boxes[i].type === "module" && boxes[i].inner.length);
  const shut = modules.filter((i) => !state.open.has(i)), open = modules.filter((i) => state.open.has(i) && i !== 0);
  if (deeper && shut.length) { const d = Math.min(...shut.map(depth)); shut.filter((i) => depth(i) === d).forEach((i) => state.open.add(i)); }
  if (!deeper && open.length) { const d = Math.max(...open.map(depth)); open.filter((i) => depth(i) === d).forEach((i) => state.open.delete(i)); }
  draw();
  fit(false);
}

const pointers = new Map();
let moved = 0;
const stage = $("stage");
stage.addEventListener("pointerdown", (e) => { pointers.set(e.pointerId, [e.clientX, e.clientY]); moved = 0; });
stage.addEventListener("pointermove", (e) => {
  if (!pointers.has(e.pointerId)) {
    const box = e.target.closest && e.target.closest("[data-i]");
    if (e.pointerType === "mouse" && box) details(+box.dataset.i);
    return;
  }
  const [ox, oy] = pointers.get(e.pointerId), others = [...pointers].filter(([id]) => id !== e.pointerId);
  if (others.length) {
    const [px, py] = others[0][1], r = stage.getBoundingClientRect();
    zoom(Math.hypot(e.clientX - px, e.clientY - py) / Math.max(1, Math.hypot(ox - px, oy - py)), (e.clientX + px) / 2 - r.left, (e.clientY + py) / 2 - r.top);
  }
  moved += Math.abs(e.clientX - ox) + Math.abs(e.clientY - oy);
  if (moved > 4) { stage.classList.add("moving"); if (!stage.hasPointerCapture(e.pointerId)) stage.setPointerCapture(e.pointerId); }
  const share = others.length ? 0.5 : 1;
  state.x += (e.clientX - ox) * share;
  state.y += (e.clientY - oy) * share;
  pointers.set(e.pointerId, [e.clientX, e.clientY]);
  look();
});
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (e) => { pointers.delete(e.pointerId); stage.classList.remove("moving"); });
stage.addEventListener("wheel", (e) => {
  e.preventDefault();
  const r = stage.getBoundingClientRect();
  if (e.ctrlKey || e.metaKey) zoom(Math.exp(-e.deltaY * 0.01), e.clientX - r.left, e.clientY - r.top);
  else if (e.shiftKey) { state.x -= e.deltaY; look(); }
  else { state.x -= e.deltaX; state.y -= e.deltaY; look(); }
}, { passive: false });
stage.addEventListener("click", (e) => {
  if (moved > 4 || e.target.closest("#zoom")) return;
  const hit = e.target.closest("[data-unfold],[data-refold],[data-close],[data-i]");
  if (!hit) { state.chosen = -1; details(-1); draw(); strip(); return; }
  const { unfold, refold, close, i } = hit.dataset;
  if (unfold !== undefined) steady(+unfold, () => state.unfolded.add(+unfold));
  else if (refold !== undefined) steady(+refold, () => state.unfolded.delete(+refold));
  else if (close !== undefined) { steady(+close, () => state.open.delete(+close)); details(+close); }
  else if (boxes[+i].inner.length) { steady(+i, () => state.open.add(+i)); details(+i); }
  else { state.chosen = +i; draw(); strip(); details(+i); }
});
for (const [name, act] of [["click", reveal], ["pointermove", details]]) {
  $("strip").addEventListener(name, (e) => { const bar = e.target.closest("[data-i]"); if (bar) act(+bar.dataset.i); });
}
$("closer").onclick = () => zoom(1.3, ...centre());
$("further").onclick = () => zoom(1 / 1.3, ...centre());
$("fit").onclick = () => fit(true);
$("deeper").onclick = () => level(true);
$("shallower").onclick = () => level(false);
$("color").onchange = (e) => { state.color = e.target.value || null; draw(); strip(); };
$("find").onchange = (e) => {
  const wanted = e.target.value.trim(), paths = boxes.map((b) => b.path);
  let i = paths.indexOf(wanted);
  if (i < 0) i = paths.findIndex((path) => wanted && path.includes(wanted));
  if (i > 0) reveal(i);
};
$("color").innerHTML = `<option value="">kind of operation</option>` + Object.keys(statistics).map((s) => `<option value="${esc(s)}">${esc(words(s))}</option>`).join("");
$("color").value = state.color || "";
$("names").innerHTML = boxes.filter((b) => b.path).map((b) => `<option value="${esc(b.path)}">`).join("");
if (data.backward) {
  $("passes").innerHTML = [["forward", "Forward"], ["backward", "Backward"], ["both", "Both"]]
    .map(([pass, text]) => `<button data-pass="${pass}" aria-pressed="${pass === state.pass}">${text}</button>`).join("");
  $("passes").onclick = (e) => {
    if (!e.target.dataset.pass) return;
    state.pass = e.target.dataset.pass;
    for (const button of $("passes").children) button.setAttribute("aria-pressed", button.dataset.pass === state.pass);
    draw(); strip(); fit(false);
  };
} else $("passes").remove();
if (!boxes.some((b, i) => i && b.type === "module" && b.inner.length)) $("deeper").parentNode.remove();
let wide = $("stage").clientWidth;
window.addEventListener("resize", () => { state.x += ($("stage").clientWidth - wide) / 2; wide = $("stage").clientWidth; look(); });
draw();
strip();
details(-1);
fit(false);
