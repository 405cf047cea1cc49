// The performative loop in the scrubber's frame: its seeds are starts, its steps rounds, its curves two axes of a plane and the change.
const LAST = 10, STARTS = [["#3F8FC4", "circle"], [ORANGE, "square"], [GREEN, "diamond"], [BROWN, "circle"], ["#CC79A7", "square"]];
const shown = (d, at) => Array.from({ length: d.N }, (_, n) => n).filter((n) => at.seed < 0 || n === at.seed);
const recent = (at) => Math.max(0, at.time - LAST + 1);

function mark(g, [colour, shape], x, y, r) {
  g.fillStyle = colour; g.beginPath();
  if (shape === "circle") g.arc(x, y, r, 0, 7);
  if (shape === "square") g.rect(x - r, y - r, 2 * r, 2 * r);
  if (shape === "diamond") { g.moveTo(x, y - 1.4 * r); g.lineTo(x + 1.4 * r, y); g.lineTo(x, y + 1.4 * r); g.lineTo(x - 1.4 * r, y); }
  g.fill();
}

// One scale for all settings and rounds, so that nothing jumps when a slider moves.
function plane(d, width, height) {
  const [low, high] = [0, 1].map((k) => {
    const all = Array.from({ length: d.P * d.N }, (_, i) => d.seed(k, Math.floor(i / d.N), i % d.N)).flatMap((row) => Array.from(row));
    return [Math.min(...all), Math.max(...all)];
  }).reduce(([l, h], [a, b]) => [[...l, a], [...h, b]], [[], []]);
  return (x, y) => [20 + ((width - 70) * (x - low[0])) / (high[0] - low[0] || 1), height - 16 - ((height - 50) * (y - low[1])) / (high[1] - low[1] || 1)];
}

function drawTrail(canvas, d, at, look, width, height) {
  const g = begin(canvas, width, height), tall = Math.floor(0.7 * height), put = plane(d, width, tall);
  const spot = (p, n, t) => put(d.seed(0, p, n)[t], d.seed(1, p, n)[t]);
  g.fillStyle = look.other;
  for (let p = 0; p < d.P; p++) for (let n = 0; n < d.N; n++) { const [x, y] = spot(p, n, d.T - 1); g.beginPath(); g.arc(x, y, 1.8, 0, 7); g.fill(); }
  for (const n of shown(d, at)) {
    const way = Array.from({ length: at.time + 1 }, (_, t) => spot(at.setting, n, t)), late = way.slice(recent(at));
    g.strokeStyle = STARTS[n % STARTS.length][0];
    g.lineWidth = 1; g.globalAlpha = 0.6; trace(g, way.map((s) => s[0]), way.map((s) => s[1]));
    g.lineWidth = 2.4; g.globalAlpha = 1; trace(g, late.map((s) => s[0]), late.map((s) => s[1]));
    late.forEach(([x, y], i) => mark(g, STARTS[n % STARTS.length], x, y, i === late.length - 1 ? 6 : 2.6));
    g.fillStyle = look.text; g.textAlign = "left"; g.textBaseline = "bottom"; g.fillText(`start ${n + 1}`, way[0][0] + 4, way[0][1] - 2);
  }
  g.fillStyle = look.text; g.textAlign = "left"; g.textBaseline = "top";
  g.font = "600 12px system-ui, sans-serif"; g.fillText("occupancy on two axes; dots: where all settings end", 4, 2); g.font = "12px system-ui, sans-serif";
  drawChange(g, d, at, look, width, tall, height);
}

// Below it, by how much of itself the flow moves in each round, on a scale of powers of ten.
function drawChange(g, d, at, look, width, top, height) {
  const left = 46, base = height - 24, first = top + 22, floor = -6;
  const px = (t) => left + (t / Math.max(1, d.T - 1)) * (width - left - 16);
  const py = (v) => base - ((Math.max(floor, Math.log10(Math.max(v, 1e-12))) - floor) / (0.3 - floor)) * (base - first);
  g.lineWidth = 1; g.textAlign = "right"; g.textBaseline = "middle";
  for (const e of [-6, -3, 0]) {
    g.strokeStyle = look.faint; g.beginPath(); g.moveTo(left, py(10 ** e)); g.lineTo(width - 16, py(10 ** e)); g.stroke();
    g.fillStyle = look.text; g.fillText(["1", "10⁻³", "10⁻⁶"][-e / 3], left - 6, py(10 ** e));
  }
  for (const n of shown(d, at)) {
    g.strokeStyle = STARTS[n % STARTS.length][0]; g.lineWidth = 1.6;
    const row = Array.from(d.seed(2, at.setting, n));
    trace(g, row.map((_, t) => px(t)), row.map((v) => (Number.isFinite(v) ? py(v) : NaN)));
  }
  g.strokeStyle = look.text; g.lineWidth = 1; g.setLineDash([2, 3]); g.beginPath(); g.moveTo(px(at.time), first); g.lineTo(px(at.time), base); g.stroke(); g.setLineDash([]);
  g.fillStyle = look.text; g.textAlign = "left"; g.textBaseline = "top";
  g.font = "600 12px system-ui, sans-serif"; g.fillText("change of the flow per round, as a share of it", 4, top + 4); g.font = "12px system-ui, sans-serif";
  g.textAlign = "center"; for (const t of ticks(0, d.T - 1, 6)) g.fillText(String(d.steps[t] ?? ""), px(t), base + 5);
}

// The grid: mean heat of the last rounds, and the arrows of each of them; where the policy rests they lie on one another.
function drawRounds(canvas, d, at, look, width, height) {
  const rounds = Array.from({ length: at.time - recent(at) + 1 }, (_, i) => recent(at) + i);
  const mean = (c) => rounds.reduce((sum, t) => sum + d.cell(at.setting, at.seed, t, c).heat, 0) / rounds.length;
  drawFloor(canvas, { ...d, cell: (p, n, t, c) => ({ heat: mean(c), x: 0, y: 0 }) }, at, look, width, height);
  const g = canvas.getContext("2d"), f = d.floor, size = Math.min(width / f.width, (height - 40) / f.height), left = (width - size * f.width) / 2;
  for (const t of rounds) f.cells.forEach((i, c) => {
    const cell = d.cell(at.setting, at.seed, t, c), place = [left + (i % f.width) * size, Math.floor(i / f.width) * size];
    arrow(g, cell, place, size, t === at.time ? 0.9 : 0.35);
  });
  g.globalAlpha = 1;
}

function told(d, at) {
  const rounds = Array.from({ length: at.time - recent(at) + 1 }, (_, i) => recent(at) + i);
  const most = (n) => Math.max(...rounds.map((t) => d.seed(2, at.setting, n)[t]).filter(Number.isFinite), 0);
  const each = shown(d, at).map((n) => `start ${n + 1} ${most(n) < 1e-3 ? "rests" : `moves by up to ${percent(most(n))} a round`}`);
  return `${d.names[at.setting]}, round ${d.steps[at.time]}. In the last ${rounds.length} rounds ${each.join("; ")}.`;
}
