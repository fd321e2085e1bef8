// The page: asks the debug API every two seconds and draws what it says. Text is only ever set as text.
"use strict";

const PERIOD_MS = 2000;
const SHOWN_GANGS = 200;
const SHOWN_DECISIONS = 14;
// Distinguishable with every common kind of colour vision, and on both backgrounds; queues take them in order of name.
const HUES = ["#4c8fd6", "#e08a3c", "#45a88a", "#c9669f", "#9a83d9", "#b3a22e", "#5bb8c9", "#d9695f", "#7a9a3f", "#8c7a6b"];
const TAINTED = -1, FOREIGN = -2;
const LABEL_FONT = "12px system-ui, sans-serif", NAME_FONT = "11px system-ui, sans-serif";

const at = (id) => document.getElementById(id);
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const state = { map: null, queues: [], gangs: [], cycle: -1, seen: 0, places: [], open: new Set(), pods: new Map() };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function all(path) {
  const items = [];
  let token = "";
  do {
    const page = await ask(`${path}${path.includes("?") ? "&" : "?"}limit=5000&continue=${encodeURIComponent(token)}`);
    items.push(...page.items);
    token = page.metadata.continue || "";
  } while (token);
  return items;
}

const SUFFIX = { m: 1e-3, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, Ki: 1024, Mi: 1024 ** 2, Gi: 1024 ** 3, Ti: 1024 ** 4, Pi: 1024 ** 5 };
function amount(text) {
  if (text === undefined || text === null) return 0;
  const parts = /^([0-9.]+)([A-Za-z]*)$/.exec(String(text));
  return parts ? Number(parts[1]) * (SUFFIX[parts[2]] || 1) : 0;
}

function written(value, resource) {
  if (!/^memory(\.|$)/.test(resource)) return String(Math.round(value * 10) / 10);
  const steps = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
  let step = 0;
  while (value >= 1024 && step < steps.length - 1) { value /= 1024; step += 1; }
  return `${Math.round(value * 10) / 10}${steps[step]}`;
}

function since(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

function hue(owner) {
  if (owner === TAINTED) return ink("--bad");
  return owner === FOREIGN ? ink("--soft") : HUES[owner % HUES.length];
}
const hueOf = (queue) => {
  const owner = state.map ? state.map.queues.indexOf(queue) : -1;
  return owner < 0 ? ink("--accent") : hue(owner);
};

// --- refreshing ----------------------------------------------------------------------------------------------------

async function refresh() {
  try {
    const [map, queues, gangs, cycles, decisions, aside] = await Promise.all([
      ask("/api/v1/map"), all("/api/v1/queues"), all("/api/v1/gangs"),
      ask("/api/v1/cycles?limit=100"), ask(`/api/v1/decisions?limit=${SHOWN_DECISIONS}`), ask("/api/v1/set-aside?limit=50"),
    ]);
    state.seen = Date.now();
    state.cycles = cycles.items;
    if (map.cycle !== state.cycle) {
      Object.assign(state, { map, queues, gangs, cycle: map.cycle });
      state.pods.clear();
      draw(decisions.items, aside);
    }
    pulse(true);
  } catch (problem) {
    pulse(false);
  }
  setTimeout(refresh, document.hidden ? PERIOD_MS * 5 : PERIOD_MS);
}

function pulse(live) {
  at("pulse").className = live ? "live" : "lost";
  const newest = state.cycles && state.cycles[0];
  at("pulse-text").textContent = live && newest
    ? `cycle ${newest.number}, ${since(newest.at)} ago`
    : state.seen ? `no answer since ${new Date(state.seen).toLocaleTimeString()}; this is what was known then` : "no cycle yet";
}

function draw(decisions, aside) {
  drawFigures();
  drawCycles();
  drawMap();
  drawLegend();
  drawQueues();
  drawGangs();
  drawDecisions(decisions);
  drawSetAside(aside);
}

function drawFigures() {
  let used = 0, there = 0;
  for (const group of state.map.groups) for (const node of group.nodes) for (const board of node.boards) {
    there += 1;
    for (const [owner, part] of board) if (owner !== TAINTED) used += part / 1000;
  }
  const count = (verdicts) => state.gangs.filter((gang) => verdicts.includes(gang.verdict)).length;
  const waiting = waitingGangs().length, refused = count(["Refused"]);
  at("gpus-used").textContent = written(used, "gpu");
  at("gpus-all").textContent = there;
  at("pods-running").textContent = state.gangs.reduce((sum, gang) => sum + gang.counts.running, 0);
  at("gangs-running").textContent = count(["Running", "Placed"]);
  at("gangs-waiting").textContent = waiting;
  at("gangs-refused").textContent = refused;
  document.querySelector(".figure.waiting").classList.toggle("some", waiting > 0);
  document.querySelector(".figure.refused").classList.toggle("some", refused > 0);
}

function scaled(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function drawCycles() {
  const canvas = at("cycles"), width = canvas.parentElement.clientWidth - 28, height = 40;
  const pen = scaled(canvas, width, height);
  const spent = state.cycles.map((cycle) => Object.values(cycle.seconds).reduce((sum, each) => sum + each, 0)).reverse();
  const most = Math.max(...spent, 0.001), step = width / Math.max(spent.length, 30);
  spent.forEach((seconds, place) => {
    const placed = state.cycles[spent.length - 1 - place].placements > 0, tall = Math.max(2, (seconds / most) * (height - 4));
    pen.fillStyle = placed ? ink("--good") : ink("--line");
    pen.fillRect(place * step, height - tall, Math.max(1, step - 1.5), tall);
  });
  const newest = spent[spent.length - 1] || 0;
  at("cycles-text").textContent = `last cycle ${(newest * 1000).toFixed(1)} ms; green: something was placed`;
}

// --- the map -------------------------------------------------------------------------------------------------------

function shape(nodes) {
  // Cell size, gap, and whether there is room for names: by how many GPUs there are to show.
  const cells = nodes.reduce((sum, node) => sum + Math.max(node.boards.length, 1), 0);
  if (cells <= 700) return { cell: 15, gap: 3, names: true };
  if (cells <= 4000) return { cell: 8, gap: 2, names: false };
  return { cell: 4, gap: 1, names: false };
}

// Groups flow like words; within a group, nodes do. Returns where each node and each group's name goes.
function layout(groups, width, { cell, gap, names }, measure) {
  const line = cell + gap, title = names ? 15 : 0, between = names ? 16 : 3 * gap + 2, below = names ? 8 : 3 * gap;
  const places = [], labels = [];
  let left = 0, top = 0, lowest = 0;
  for (const group of groups) {
    const label = groups.length > 24 ? group.name.split(" / ").pop() : group.name, head = label ? 18 : 0;
    const boxes = group.nodes.map((node) => {
      const count = Math.max(node.boards.length, 1), columns = Math.min(count, 8), rows = Math.ceil(count / columns);
      const wide = Math.max(columns * line - gap, names ? Math.min(node.name.length, 17) * 6.1 : 0);
      return { node, columns, wide, tall: rows * line - gap + title };
    });
    const area = boxes.reduce((sum, box) => sum + (box.wide + between) * (box.tall + below), 0);
    const room = names ? width : Math.min(width, Math.max(measure(label), Math.sqrt(area * 4)));
    let x = 0, y = 0, row = 0, widest = measure(label);
    const inside = [];
    for (const box of boxes) {
      if (x > 0 && x + box.wide > room) { x = 0; y += row + below; row = 0; }
      inside.push({ ...box, x, y });
      x += box.wide + between;
      row = Math.max(row, box.tall);
      widest = Math.max(widest, x - between);
    }
    const tall = head + y + row;
    if (left > 0 && left + widest > width) { left = 0; top += lowest + 16; lowest = 0; }
    if (label) labels.push([label, left, top + 11]);
    for (const box of inside) places.push({ ...box, x: box.x + left, y: box.y + top + head, group: group.name });
    left += widest + 26;
    lowest = Math.max(lowest, tall);
  }
  return { places, labels, tall: top + lowest + 6 };
}

function drawMap() {
  const groups = state.map.groups, size = shape(groups.flatMap((group) => group.nodes));
  const width = at("map-frame").clientWidth, canvas = at("map"), ruler = canvas.getContext("2d");
  ruler.font = LABEL_FONT;
  const { places, labels, tall } = layout(groups, width, size, (text) => ruler.measureText(text).width);
  const pen = scaled(canvas, width, Math.max(tall, 20));
  pen.font = LABEL_FONT;
  pen.fillStyle = ink("--soft");
  for (const [text, x, base] of labels) pen.fillText(text, x, base);
  const colours = { free: ink("--free"), ink: ink("--ink"), soft: ink("--soft"), line: ink("--line"), bad: ink("--bad") };
  for (const place of places) drawNode(pen, place, size, colours);
  state.places = places;
  const cordoned = places.filter((place) => place.node.cordoned).length;
  at("cluster-note").textContent = `${places.length} node${places.length === 1 ? "" : "s"}${cordoned ? `, ${cordoned} taking no new work` : ""}`;
}

function drawNode(pen, { node, x, y, wide, tall, columns }, { cell, gap, names }, colours) {
  if (names) {
    pen.font = NAME_FONT;
    pen.fillStyle = node.cordoned ? colours.bad : colours.ink;
    pen.fillText(node.name.length > 17 ? `${node.name.slice(0, 16)}…` : node.name, x, y + 10);
  }
  const top = y + (names ? 15 : 0), line = cell + gap, radius = cell > 6 ? 3 : 0;
  if (!node.boards.length) {
    const bar = Math.min(wide, cell * 3);
    pen.strokeStyle = colours.line;
    pen.strokeRect(x + 0.5, top + 0.5, bar - 1, cell - 1);
    pen.fillStyle = colours.soft;
    pen.fillRect(x + 1, top + 1, ((bar - 2) * node.cpu) / 1000, cell - 2);
  }
  node.boards.forEach((board, place) => {
    const left = x + (place % columns) * line, up = top + Math.floor(place / columns) * line;
    pen.fillStyle = colours.free;
    round(pen, left, up, cell, cell, radius);
    pen.fill();
    if (!board.length) return;
    pen.save();
    round(pen, left, up, cell, cell, radius);
    pen.clip();
    let filled = 0;
    for (const [owner, part] of board) {
      const height = (cell * Math.min(part, 1000 - filled)) / 1000;
      pen.fillStyle = owner === TAINTED ? colours.bad : owner === FOREIGN ? colours.soft : hue(owner);
      pen.fillRect(left, up + cell - (cell * filled) / 1000 - height, cell, height);
      filled += part;
    }
    pen.restore();
  });
  if (node.cordoned) {
    pen.fillStyle = colours.bad;
    pen.fillRect(x, y + tall + 1.5, columns * line - gap, 1.5);
  }
}

function round(pen, x, y, wide, tall, radius) {
  pen.beginPath();
  if (radius) pen.roundRect(x, y, wide, tall, radius); else pen.rect(x, y, wide, tall);
}

function drawLegend() {
  const used = new Map();
  for (const group of state.map.groups) for (const node of group.nodes) for (const board of node.boards)
    for (const [owner, part] of board) used.set(owner, (used.get(owner) || 0) + part / 1000);
  const items = [...used.keys()].sort((one, two) => (one < 0) - (two < 0) || one - two).map((owner) => {
    const item = make("li"), swatch = make("span", "swatch");
    swatch.style.background = hue(owner);
    const name = owner === TAINTED ? "tainted" : owner === FOREIGN ? "others" : state.map.queues[owner] || "no queue";
    item.append(swatch, `${name} ${written(used.get(owner), "gpu")}`);
    return item;
  });
  const free = make("li"), swatch = make("span", "swatch");
  swatch.style.background = ink("--free");
  swatch.style.borderColor = ink("--line");
  free.append(swatch, "free");
  at("legend").replaceChildren(...items, free);
}

function under(event) {
  const frame = at("map").getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
  return state.places.find((place) => x >= place.x && x <= place.x + place.wide && y >= place.y && y <= place.y + place.tall);
}

at("map").addEventListener("mousemove", (event) => {
  const place = under(event), tip = at("tip");
  tip.hidden = !place;
  if (!place) return;
  const { node } = place, lines = [place.group ? `${node.name}, ${place.group}` : node.name], by = new Map();
  if (node.product) lines.push(node.product);
  if (node.cordoned) lines.push("takes no new work");
  for (const board of node.boards) for (const [owner, part] of board) by.set(owner, (by.get(owner) || 0) + part / 1000);
  for (const [owner, count] of by)
    lines.push(`${owner === TAINTED ? "tainted" : owner === FOREIGN ? "others" : state.map.queues[owner]}: ${written(count, "gpu")} GPU`);
  if (node.boards.length) lines.push(`${node.boards.filter((board) => !board.length).length} of ${node.boards.length} GPUs free`);
  else lines.push(`${Math.round(node.cpu / 10)} % of CPU asked for`);
  tip.textContent = lines.join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 360)}px`;
  tip.style.top = `${event.clientY + 14}px`;
});
at("map").addEventListener("mouseleave", () => { at("tip").hidden = true; });
at("map").addEventListener("click", async (event) => {
  const place = under(event);
  if (!place) return;
  at("node-name").textContent = place.node.name;
  at("node-devices").replaceChildren(make("p", "none", "asking …"));
  at("node").showModal();
  try {
    const devices = await all(`/api/v1/devices?node=${encodeURIComponent(place.node.name)}`);
    const rows = devices.map((device) => [
      device.device, device.attributes["gpu.nvidia.com/profile"] || device.attributes["gpu.nvidia.com/productName"] || device.driver,
      device.state, device.holders.map((holder) => [holder.gang, holder.queue].filter(Boolean).join(" in ") || holder.claim).join(", "),
    ]);
    at("node-devices").replaceChildren(rows.length ? table(["device", "what", "state", "held by"], rows) : make("p", "none", "No devices are published for this node."));
  } catch (problem) {
    at("node-devices").replaceChildren(make("p", "none", "The scheduler does not answer."));
  }
});

function table(heads, rows) {
  const element = make("table"), head = element.createTHead().insertRow(), body = element.createTBody();
  for (const text of heads) head.append(make("th", "", text));
  for (const row of rows) {
    const line = body.insertRow();
    for (const text of row) line.insertCell().textContent = text;
  }
  return element;
}

// --- queues --------------------------------------------------------------------------------------------------------

function drawQueues() {
  const names = new Set();
  for (const queue of state.queues)
    for (const part of ["quota", "limit", "fairShare", "allocated", "requested"]) for (const name of Object.keys(queue[part])) names.add(name);
  const choice = at("resource"), order = [...names].sort((one, two) => (two === "gpu") - (one === "gpu") || (one < two ? -1 : 1));
  if ([...choice.options].map((option) => option.value).join() !== order.join()) {
    const chosen = choice.value;
    choice.replaceChildren(...order.map((name) => new Option(name === "gpu" ? "GPUs" : name === "cpu" ? "CPUs" : name, name)));
    if (names.has(chosen)) choice.value = chosen;
  }
  const children = new Map();
  const known = new Set(state.queues.map((queue) => queue.name));
  for (const queue of state.queues) {
    const parent = !queue.problem && known.has(queue.parent) ? queue.parent : null;
    children.set(parent, [...(children.get(parent) || []), queue]);
  }
  const rows = [];
  const walk = (parent, depth) => { for (const queue of children.get(parent) || []) { rows.push(queueRow(queue, depth)); walk(queue.name, depth + 1); } };
  walk(null, 0);
  at("queue-tree").replaceChildren(...(rows.length ? rows : [make("p", "none", "There are no queues yet.")]));
}

function queueRow(queue, depth) {
  const resource = at("resource").value || "gpu", of = (part) => amount(queue[part][resource]);
  const row = make("div", "queue"), head = make("div", "head"), figures = make("span", "figures num");
  row.style.marginLeft = `${depth * 16}px`;
  head.append(make("span", queue.leaf ? "name" : "name inner", queue.name));
  if (queue.pending) head.append(make("span", "waits note", `${queue.pending} waiting`));
  const shares = [];
  if (queue.quota[resource] !== undefined) shares.push(`quota ${queue.quota[resource] === "all" ? "all" : written(of("quota"), resource)}`);
  if (state.queues.some((each) => each.fairShare[resource] !== undefined)) shares.push(`fair ${written(of("fairShare"), resource)}`);
  if (queue.limit[resource] !== undefined) shares.push(`limit ${written(of("limit"), resource)}`);
  if (queue.usage) shares.push(`${Math.round(100 * Number(queue.usage[resource] || 0))} % of the cluster used of late`);
  figures.append(make("b", "", written(of("allocated"), resource)), ` in use${shares.map((share) => `, ${share}`).join("")}`);
  head.append(figures);
  row.append(head);
  if (queue.problem) {
    row.append(make("p", "problem", `${queue.problem.message} ${queue.problem.cure}`));
    return row;
  }
  const whole = Math.max(...["quota", "limit", "fairShare", "allocated", "requested"].map(of)) || 1;
  const bar = make("div", "bar"), colour = queue.leaf ? hueOf(queue.name) : ink("--soft");
  const part = (className, share) => {
    const element = make("div", className);
    element.style.width = `${(100 * Math.min(share, whole)) / whole}%`;
    element.style.background = colour;
    return element;
  };
  bar.append(make("div", "track"), part("asked", of("requested")), part("used", of("allocated")));
  for (const [name, field] of [["quota", "quota"], ["fair", "fairShare"], ["limit", "limit"]]) {
    if (!of(field)) continue;
    const tick = make("div", `tick ${name}`);
    tick.style.left = `${(100 * of(field)) / whole}%`;
    bar.append(tick);
  }
  row.append(bar);
  return row;
}
at("resource").addEventListener("change", drawQueues);

// --- gangs and decisions -------------------------------------------------------------------------------------------

// All that wait, those that need a change among them.
const waitingGangs = () => state.gangs.filter((gang) => gang.reason);

function drawGangs() {
  const wanted = at("find").value.trim().toLowerCase();
  const waiting = waitingGangs();
  const found = waiting.filter((gang) => !wanted
    || [gang.namespace, gang.name, gang.queue, gang.reason.code, gang.reason.message].join(" ").toLowerCase().includes(wanted));
  found.sort((one, two) => (two.verdict === "Refused") - (one.verdict === "Refused")
    || two.priority - one.priority || one.createdAt.localeCompare(two.createdAt) || key(one).localeCompare(key(two)));
  const rows = found.slice(0, SHOWN_GANGS).map(gangRow);
  if (found.length > SHOWN_GANGS) rows.push(make("p", "none", `and ${found.length - SHOWN_GANGS} more; /api/v1/gangs has all`));
  if (!rows.length) rows.push(make("p", "none", waiting.length ? "No gang that waits matches." : "Nothing waits."));
  at("gangs").replaceChildren(...rows);
}
at("find").addEventListener("input", drawGangs);

const key = (gang) => `${gang.namespace}/${gang.name}`;

function gangRow(gang) {
  const row = make("details", "gang"), summary = make("summary"), title = make("span", "title"), meta = make("span", "meta num");
  title.append(make("b", "", key(gang)), make("span", `badge ${gang.verdict}`, gang.reason.code));
  if (gang.queue) title.append(make("span", "note", `in ${gang.queue}`));
  const { bound, needed, total } = gang.counts, starts = gang.startsAt ? `, starts about ${new Date(gang.startsAt).toLocaleTimeString()}` : "";
  const ends = gang.endsAt ? `, stopped about ${new Date(gang.endsAt).toLocaleTimeString()}` : "";
  meta.textContent = `${bound} of ${Math.max(needed, total)} pods, ${since(gang.createdAt)}${starts}${ends}`;
  summary.append(title, meta, make("span", "why", gang.reason.message), make("span", "cure", gang.reason.cure));
  row.append(summary);
  row.open = state.open.has(key(gang));
  if (row.open) showPods(gang, row);
  row.addEventListener("toggle", () => {
    if (!row.open) { state.open.delete(key(gang)); return; }
    state.open.add(key(gang));
    showPods(gang, row);
  });
  return row;
}

async function showPods(gang, row) {
  if (row.querySelector("table")) return;
  try {
    const known = state.pods.get(key(gang)) || await ask(`/api/v1/gangs/${encodeURIComponent(gang.namespace)}/${encodeURIComponent(gang.name)}/explain`);
    state.pods.set(key(gang), known);
    const rows = known.pods.map((pod) => [
      pod.name, pod.gated ? "gated" : pod.phase, pod.node || "–",
      pod.claims.map((claim) => claim.devices.map((device) => `${device.pool}/${device.device}`).join(", ") || claim.claim || claim.name).join("; ") || "–",
    ]);
    if (!row.querySelector("table")) row.append(table(["pod", "phase", "node", "claims"], rows));
  } catch (problem) {
    if (!row.querySelector(".none")) row.append(make("p", "none", "Gone, or the scheduler does not answer."));
  }
}

function drawDecisions(decisions) {
  const rows = decisions.map((decision) => {
    const row = make("li"), time = make("time", "", new Date(decision.at).toLocaleTimeString([], { hour12: false }));
    const what = make("div", "what"), nodes = decision.nodes.length;
    time.dateTime = decision.at;
    const where = nodes ? ` on ${decision.nodes.slice(0, 3).join(", ")}${nodes > 3 ? ` and ${nodes - 3} more` : ""}` : "";
    const text = decision.code ? ` ${decision.verdict.toLowerCase()}: ${decision.code}` : ` ${decision.verdict.toLowerCase()}${where}`;
    what.append(decision.gang, make("span", "", text));
    what.title = decision.message || "";
    row.append(time, make("span", `sign ${decision.verdict}`), what);
    return row;
  });
  at("decisions").replaceChildren(...(rows.length ? rows : [make("li", "none", "Nothing has been decided yet.")]));
}

function drawSetAside(aside) {
  at("set-aside").hidden = !aside.items.length;
  const rows = aside.items.map((each) => {
    const row = make("div", "aside");
    row.append(make("div", "", each.reason.message), make("div", "cure", each.reason.cure));
    return row;
  });
  if (aside.metadata.remainingItemCount) rows.push(make("p", "none", `and ${aside.metadata.remainingItemCount} more; /api/v1/set-aside has all`));
  at("unread").replaceChildren(...rows);
}

window.addEventListener("resize", () => { if (state.map) { drawMap(); drawCycles(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state.map) { drawMap(); drawLegend(); drawQueues(); drawCycles(); } });
setInterval(() => { if (state.cycles) pulse(at("pulse").className !== "lost"); }, 1000);
refresh();
