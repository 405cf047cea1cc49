// Scrubs over setting, time and seed of one record, wholly in the browser. All data is here from the start:
//   about   {steps, knobs: [{name, values}], names, seeds, curves: [titles], band, floor or null, most, full}
//   curves  float32: summary (K, P, 3, T) of centre, low, high; then every seed (K, P, N, T)
//   arrows  uint8 (P, N + 1, T, cells, 3): root of heat / most, direction / 256 of a turn, length; of all seeds, then of each
const BLUE = "0,114,178", GREEN = "#009E73", ORANGE = "#D55E00", BROWN = "#AA7700";
const bytes = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
const make = (tag, props, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const short = (v) => (Number.isFinite(v) ? String(+v.toPrecision(3)) : "no value yet");
const percent = (v) => `${(100 * v).toPrecision(2)}%`;

function decode(model) {
  const about = model.get("about");
  const K = about.curves.length, P = about.names.length, N = about.seeds.length, T = about.steps.length;
  const C = about.floor ? about.floor.cells.length : 0;
  const curves = new Float32Array(bytes(model.get("curves")));
  const arrows = new Uint8Array(bytes(model.get("arrows")));
  const row = (start) => curves.subarray(start * T, (start + 1) * T);
  return {
    ...about, K, P, N, T, C,
    summary: (k, p, which) => row((k * P + p) * 3 + which),
    seed: (k, p, n) => row(K * P * 3 + (k * P + p) * N + n),
    cell: (p, n, t, c) => {
      const at = (((p * (N + 1) + n + 1) * T + t) * C + c) * 3;
      const turn = (arrows[at + 1] * Math.PI) / 128, length = arrows[at + 2] / 255;
      return { heat: about.most * (arrows[at] / 255) ** 2, x: length * Math.cos(turn), y: length * Math.sin(turn) };
    },
  };
}

// The page's colours: from what really lies behind the widget, so that any theme is followed.
function ink(el) {
  let rgb = null;
  for (let e = el; e && !rgb; e = e.parentElement || e.getRootNode().host) {
    const c = (getComputedStyle(e).backgroundColor.match(/[\d.]+/g) || []).map(Number); // nothing while not in the page yet
    if (c.length === 3 || c[3] > 0.5) rgb = c;
  }
  const dark = rgb ? 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 128 : matchMedia("(prefers-color-scheme: dark)").matches;
  return dark
    ? { dark, back: rgb ? `rgb(${rgb.slice(0, 3)})` : "#111", text: "#e8e8e8", faint: "rgba(255,255,255,0.17)", other: "rgba(255,255,255,0.38)", line: "#4AA3DF", wall: "#5c5c5c" }
    : { dark, back: rgb ? `rgb(${rgb.slice(0, 3)})` : "#fff", text: "#222", faint: "rgba(0,0,0,0.12)", other: "rgba(0,0,0,0.3)", line: "#0072B2", wall: "#8d8d8d" };
}

// Round numbers that divide low .. high into about n parts.
function ticks(low, high, n) {
  const rough = (high - low) / n, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((m) => m * size >= 0.8 * rough);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
  return out;
}
const thousands = (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : `${+v.toPrecision(3)}`);

function begin(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.round(width * ratio), h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "12px system-ui, sans-serif";
  return g;
}

// Low and high of what is drawn of curve k: every setting's summary, the seeds that are shown too.
function range(d, k, seed) {
  let low = Infinity, high = -Infinity;
  const see = (row) => { for (const v of row) if (Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); } };
  for (let p = 0; p < d.P; p++) {
    for (let i = 0; i < (d.band ? 3 : 1); i++) see(d.summary(k, p, i));
    for (let n = 0; n < d.N; n++) if (n === seed || !d.band) see(d.seed(k, p, n));
  }
  return low < high ? [low - 0.03 * (high - low), high + 0.06 * (high - low)] : [low - 1 || -1, low + 1 || 1];
}

function trace(g, xs, ys) {
  let pen = false;
  g.beginPath();
  xs.forEach((x, i) => {
    if (Number.isFinite(ys[i])) pen ? g.lineTo(x, ys[i]) : g.moveTo(x, ys[i]);
    pen = Number.isFinite(ys[i]);
  });
  g.stroke();
}

// Too few seeds for a band: each is shown itself.
function dots(g, xs, ys, colour) {
  g.fillStyle = colour; g.globalAlpha = 0.55;
  xs.forEach((x, i) => { if (Number.isFinite(ys[i])) { g.beginPath(); g.arc(x, ys[i], 1.8, 0, 7); g.fill(); } });
  g.globalAlpha = 1;
}

function drawCurves(canvas, d, at, look, width, height) {
  const g = begin(canvas, width, height);
  const left = 46, right = 62, bottom = 40, each = (height - bottom) / d.K;
  const first = d.steps[0], final = Math.max(d.steps[d.T - 1], first + 1);
  const px = (s) => left + ((s - first) / (final - first)) * (width - left - right);
  const xs = d.steps.map(px);
  for (let k = 0; k < d.K; k++) {
    const [low, high] = range(d, k, at.seed), top = k * each + 24, base = (k + 1) * each - 6;
    const py = (v) => base - ((v - low) / (high - low)) * (base - top);
    g.lineWidth = 1; g.textBaseline = "middle"; g.textAlign = "right";
    for (const v of ticks(low, high, 4)) {
      g.strokeStyle = look.faint; g.beginPath(); g.moveTo(left, py(v)); g.lineTo(width - right, py(v)); g.stroke();
      g.fillStyle = look.text; g.fillText(thousands(v), left - 6, py(v));
    }
    g.textAlign = "left"; g.font = "600 12px system-ui, sans-serif"; g.fillText(d.curves[k], left, top - 13); g.font = "12px system-ui, sans-serif";
    g.strokeStyle = look.other;
    for (let p = 0; p < d.P; p++) if (p !== at.setting) trace(g, xs, Array.from(d.summary(k, p, 0), py));
    const centre = Array.from(d.summary(k, at.setting, 0), py);
    const lows = Array.from(d.summary(k, at.setting, 1), py), highs = Array.from(d.summary(k, at.setting, 2), py);
    if (d.band) {
      const known = xs.map((_, i) => i).filter((i) => Number.isFinite(lows[i]));
      g.fillStyle = `rgba(${BLUE},0.25)`; g.beginPath();
      known.forEach((i) => g.lineTo(xs[i], highs[i]));
      known.reverse().forEach((i) => g.lineTo(xs[i], lows[i]));
      g.fill();
    }
    g.strokeStyle = look.line;
    if (!d.band) for (let n = 0; n < d.N; n++) dots(g, xs, Array.from(d.seed(k, at.setting, n), py), look.line);
    g.lineWidth = 2.2; trace(g, xs, centre);
    const shown = at.seed < 0 ? centre : Array.from(d.seed(k, at.setting, at.seed), py);
    if (at.seed >= 0) { g.strokeStyle = ORANGE; g.lineWidth = 1.6; g.setLineDash([5, 3]); trace(g, xs, shown); g.setLineDash([]); }
    const x = xs[at.time], y = shown[at.time];
    g.strokeStyle = look.text; g.lineWidth = 1; g.setLineDash([2, 3]); g.beginPath(); g.moveTo(x, top); g.lineTo(x, base); g.stroke(); g.setLineDash([]);
    if (Number.isFinite(y)) {
      g.fillStyle = at.seed < 0 ? look.line : ORANGE; g.beginPath(); g.arc(x, y, 4.5, 0, 7); g.fill();
      const words = [short(at.values[k]), x + 9, Math.max(y, top + 4)];
      g.textBaseline = "middle"; g.strokeStyle = look.back; g.lineWidth = 4; g.strokeText(...words); g.fillStyle = look.text; g.fillText(...words);
    }
  }
  const base = height - bottom;
  g.fillStyle = look.text; g.textAlign = "center"; g.textBaseline = "top";
  for (const s of ticks(first, final, Math.max(2, Math.floor((width - left - right) / 80)))) g.fillText(thousands(s), px(s), base);
  g.fillText("environment steps per seed", (left + width - right) / 2, base + 18);
}

const SIGNS = { goal: ["★", GREEN], win: ["★", GREEN], lose: ["✕", ORANGE], key: ["⚷", BROWN], door: ["▥", BROWN], ball: ["●", BROWN], hole: ["○", "#888"], hazard: ["✕", ORANGE] };

function drawFloor(canvas, d, at, look, width, height) {
  const g = begin(canvas, width, height), f = d.floor;
  const size = Math.min(width / f.width, (height - 40) / f.height);
  const left = (width - size * f.width) / 2, place = (i) => [left + (i % f.width) * size, Math.floor(i / f.width) * size];
  const square = (i, colour) => { const [x, y] = place(i); g.fillStyle = colour; g.fillRect(x + 0.5, y + 0.5, size - 1, size - 1); };
  const shade = (cell) => Math.min(1, Math.sqrt(cell.heat / d.full));
  const cells = f.cells.map((_, c) => d.cell(at.setting, at.seed, at.time, c));
  f.cells.forEach((i, c) => square(i, `rgba(${BLUE},${shade(cells[c])})`));
  for (const i of f.things.wall || []) square(i, look.wall);
  for (const kind of ["lava", "cliff"]) for (const i of f.things[kind] || []) square(i, ORANGE);
  g.textAlign = "center"; g.textBaseline = "middle"; g.font = `${Math.round(0.8 * size)}px system-ui, sans-serif`;
  for (const [kind, [sign, colour]] of Object.entries(SIGNS))
    for (const i of f.things[kind] || []) { const [x, y] = place(i); g.fillStyle = colour; g.fillText(sign, x + size / 2, y + 0.55 * size); }
  f.cells.forEach((i, c) => arrow(g, cells[c], place(i), size, Math.max(0.4, shade(cells[c]))));
  g.globalAlpha = 1; g.font = "12px system-ui, sans-serif";
  const y = size * f.height + 14, bar = Math.min(120, width / 3);
  const scale = g.createLinearGradient(left, 0, left + bar, 0);
  for (let i = 0; i <= 8; i++) scale.addColorStop(i / 8, `rgba(${BLUE},${Math.sqrt(i / 8)})`);
  g.fillStyle = scale; g.fillRect(left, y, bar, 10); g.strokeStyle = look.other; g.strokeRect(left, y, bar, 10);
  g.fillStyle = look.text; g.textAlign = "left"; g.fillText(`0 to ${percent(d.full)} of the time${d.full < d.most ? " or more" : ""}`, left + bar + 8, y + 6);
  canvas.dataset.heat = cells.slice(0, 8).map((c) => c.heat.toPrecision(3)).join(" ");
}

function arrow(g, cell, [x, y], size, alpha) {
  const length = Math.hypot(cell.x, cell.y);
  if (length < 0.1) return;
  const reach = 0.42 * size * length, head = Math.min(0.22 * size, 1.1 * reach), half = 0.35 * head;
  g.save();
  g.globalAlpha = alpha; g.translate(x + size / 2, y + size / 2); g.rotate(Math.atan2(cell.y, cell.x));
  g.beginPath();
  for (const [a, b] of [[-reach, -half], [reach - head, -half], [reach - head, -0.75 * head], [reach, 0], [reach - head, 0.75 * head], [reach - head, half], [-reach, half]]) g.lineTo(a, b);
  g.closePath(); g.fillStyle = "white"; g.fill(); g.lineWidth = 1; g.strokeStyle = "#222"; g.stroke();
  g.restore();
}

// The state in words and numbers, for readers who do not see the canvas; the line under it for all.
function words(d, at) {
  const whose = at.seed < 0 ? `all ${d.N} seeds` : `seed ${d.seeds[at.seed]}`;
  const numbers = d.curves.map((name, k) => {
    const [low, high] = [1, 2].map((i) => d.summary(k, at.setting, i)[at.time]);
    const spread = at.seed < 0 && d.band && Number.isFinite(low) ? ` (95% interval ${short(low)} to ${short(high)})` : "";
    return `${name} ${short(at.values[k])}${spread}`;
  });
  let text = `${d.names[at.setting]}, ${whose}, step ${d.steps[at.time]}: ${numbers.join("; ")}.`;
  if (d.floor) {
    const heat = d.floor.cells.map((_, c) => d.cell(at.setting, at.seed, at.time, c).heat);
    const c = heat.indexOf(Math.max(...heat)), i = d.floor.cells[c];
    text += ` Most time, ${percent(heat[c])}, in column ${i % d.floor.width}, row ${Math.floor(i / d.floor.width)}.`;
  }
  return text;
}

function slider(name, max, min, say, change) {
  const input = make("input", { type: "range", min, max, step: 1 });
  input.setAttribute("aria-label", name);
  const shown = make("output", {});
  Object.assign(input.style, { flex: "1 1 90px", minWidth: "70px", accentColor: `rgb(${BLUE})` });
  Object.assign(shown.style, { minWidth: "5em", fontVariantNumeric: "tabular-nums" });
  const label = make("label", {}, make("span", { textContent: name }), input, shown);
  Object.assign(label.style, { display: "flex", gap: "8px", alignItems: "center", flex: "1 1 220px" });
  input.addEventListener("input", () => change(+input.value));
  const show = (v) => { input.value = v; shown.textContent = say(v); input.setAttribute("aria-valuetext", say(v)); };
  return { label, input, show };
}

function render({ model, el }) {
  let d = decode(model), frame = 0, timer = 0, saver = 0, speaker = 0;
  const clamp = (v, low, high) => Math.max(low, Math.min(high, v | 0));
  const set = (name, value) => {
    model.set(name, value);
    clearTimeout(saver);
    saver = setTimeout(() => model.save_changes(), 100);
  };
  const bases = d.knobs.map((_, i) => d.knobs.slice(i + 1).reduce((n, knob) => n * knob.values.length, 1));
  const digit = (setting, i) => Math.floor(setting / bases[i]) % d.knobs[i].values.length;
  const knobs = d.knobs.map((knob, i) => slider(knob.name, knob.values.length - 1, 0, (v) => String(knob.values[v]), (v) => {
    const setting = model.get("setting");
    set("setting", setting + (v - digit(setting, i)) * bases[i]);
  }));
  const time = slider("step", d.T - 1, 0, (v) => String(d.steps[v]), (v) => set("time", v));
  const seed = slider("seed", d.N - 1, -1, (v) => (v < 0 ? "all" : String(d.seeds[v])), (v) => set("seed", v));
  const play = make("button", { type: "button" });
  Object.assign(play.style, { minWidth: "44px", minHeight: "28px", cursor: "pointer" });
  const left = make("canvas", { className: "lab-curves" }), right = make("canvas", { className: "lab-floor" });
  const caption = make("p", {}), live = make("p", {});
  live.setAttribute("aria-live", "polite");
  Object.assign(live.style, { position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)" });
  Object.assign(caption.style, { margin: "4px 0 0", fontSize: "13px", minHeight: "2.6em" });
  caption.setAttribute("aria-hidden", "true");
  for (const c of [left, right]) c.setAttribute("role", "img");
  const panels = make("div", {}, left, ...(d.floor ? [right] : []));
  Object.assign(panels.style, { display: "flex", flexWrap: "wrap", gap: "14px" });
  const bar = make("div", {}, play, ...knobs.map((k) => k.label), time.label, seed.label);
  Object.assign(bar.style, { display: "flex", flexWrap: "wrap", gap: "6px 16px", alignItems: "center", margin: "0 0 6px" });
  const box = make("div", { className: "lab-scrubber" }, bar, panels, caption, live);
  for (const e of box.querySelectorAll("input, button")) e.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab takes arrows else
  Object.assign(box.style, { position: "relative", fontFamily: "system-ui, sans-serif", fontSize: "13px", maxWidth: "980px" });
  el.append(box);

  function draw() {
    frame = 0;
    const at = { setting: clamp(model.get("setting"), 0, d.P - 1), time: clamp(model.get("time"), 0, d.T - 1), seed: clamp(model.get("seed"), -1, d.N - 1) };
    at.values = d.curves.map((_, k) => (at.seed < 0 ? d.summary(k, at.setting, 0) : d.seed(k, at.setting, at.seed))[at.time]);
    const look = ink(el), width = box.clientWidth || 700, both = d.floor && width > 620;
    box.style.color = look.text;
    box.style.colorScheme = look.dark ? "dark" : "light";
    const w = both ? Math.floor(width * 0.56) : width, rest = both ? width - w - 14 : Math.min(width, 420), h = both ? Math.max(300, Math.min(400, rest + 20)) : 170 * d.K + 60;
    for (const [c, cw, ch] of [[left, w, h], [right, rest, both ? h : rest + 40]]) Object.assign(c.style, { width: `${cw}px`, height: `${ch}px` });
    drawCurves(left, d, at, look, w, h);
    if (d.floor) drawFloor(right, d, at, look, rest, both ? h : rest + 40);
    knobs.forEach((knob, i) => knob.show(digit(at.setting, i)));
    time.show(at.time); seed.show(at.seed);
    const text = words(d, at);
    caption.textContent = text;
    left.setAttribute("aria-label", `Curves. ${text}`); right.setAttribute("aria-label", `Floor. ${text}`);
    for (const c of [left, right]) Object.assign(c.dataset, { setting: at.setting, time: at.time, seed: at.seed, values: at.values.map(short).join(" ") });
    left.dataset.drawn = (+left.dataset.drawn || 0) + 1;
    clearTimeout(speaker);
    speaker = setTimeout(() => { live.textContent = text; }, 400);
  }
  const ask = () => { frame ||= requestAnimationFrame(draw); };

  function pause() { clearInterval(timer); timer = 0; play.textContent = "▶"; play.setAttribute("aria-label", "play"); }
  play.addEventListener("click", () => {
    if (timer) return pause();
    play.textContent = "❚❚"; play.setAttribute("aria-label", "pause");
    timer = setInterval(() => set("time", (model.get("time") + 1) % d.T), Math.max(33, 6000 / d.T));
  });
  pause();
  const again = () => { d = decode(model); ask(); };
  const on = [...["setting", "time", "seed"].map((name) => [`change:${name}`, ask]), ["change:curves", again]];
  on.forEach(([event, f]) => model.on(event, f));
  const size = new ResizeObserver(ask), theme = new MutationObserver(() => [0, 300].forEach((ms) => setTimeout(ask, ms)));
  size.observe(box);
  for (const e of [document.documentElement, document.body]) theme.observe(e, { attributes: true });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", ask);
  draw();
  return () => {
    pause(); [saver, speaker].forEach(clearTimeout); cancelAnimationFrame(frame);
    on.forEach(([event, f]) => model.off(event, f)); size.disconnect(); theme.disconnect(); scheme.removeEventListener("change", ask);
  };
}
export default { render };
