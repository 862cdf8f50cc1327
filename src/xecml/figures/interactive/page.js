"use strict";
/* The page: what is shown, who is told when that changes, keys and addresses. */

const byId = (id) => document.getElementById(id);
const LOOKS = ["ground", "text", "faint", "line", "unlit", "unread", "true", "model", "conventional", "filled", "halo"];
const KEYS = [
  ["n, →", "next event of the list"],
  ["p, ←", "previous event"],
  ["1 … 7", "counts, times, and the other colours"],
  ["space", "let the light arrive, or stop"],
  ["[ and ]", "1 ns back, 1 ns on"],
  ["l", "logarithmic or linear colours"],
  ["s", "the same scale for all events, or one for each"],
  ["m", "marks on or off"],
  ["Shift + arrows", "turn the detector"],
  ["+ and −", "closer to the detector, farther off"],
  ["r", "both pictures as at first"],
  ["/", "type the id of a sensor"],
  ["?", "this list"],
];
const PLAY_SECONDS = 8; // for the light of an event

class Page {
  constructor(content, sensors) {
    Object.assign(this, { content, sensors, events: new Events(content.events) });
    Object.assign(this, { current: -1, event: null, quantity: "counts", until: Infinity, hovered: -1, pinned: -1, playing: 0 });
    this.marks = Object.fromEntries(KINDS.map((kind) => [kind, true]));
    this.ringed = true;
    this.largest = Math.max(...content.events.map((r) => (r.count_step * content.count_roots) ** 2));
    const hover = (id, pin) => this.hover(id, pin);
    this.views = [new UnfoldedView(byId("unfolded"), sensors, hover), new DetectorView(byId("detector"), sensors, hover)];
    this.list = new EventList(byId("events"), byId("filters").querySelector("form"), byId("listed"), this.events, (i) => this.show(i));
    if (!this.list.columns.some((name) => COLUMNS[name].filter)) byId("filters").hidden = true;
    this.makeControls();
    this.listen();
    this.theme(recalled("theme") ?? "system");
  }

  // ------------------------------------------------------------------------------------------------ controls

  makeControls() {
    const photons = this.content.count_unit === "photons", has = new Set(["expected"]);
    if (this.content.expected_times) has.add("expectedTime");
    this.quantities = Object.keys(SHOWN).filter((name) => (!SHOWN[name].needs || has.has(SHOWN[name].needs)) && (photons || !SHOWN[name].photons));
    this.quantities.forEach((name, i) => {
      const input = this.control(byId("quantities"), "radio", SHOWN[name].title, name === "counts");
      Object.assign(input, { name: "quantity", value: name });
      input.parentElement.title = `key ${i + 1}` + (SHOWN[name].needs ? `; expected: ${this.content.expected}` : "");
      input.addEventListener("change", () => this.set({ quantity: name }));
    });
    for (const kind of KINDS.filter((k) => this.content.events.some((r) => r.marks[k]))) {
      const input = this.control(byId("marks"), "checkbox", kind, true);
      const swatch = document.createElement("canvas");
      swatch.className = "swatch";
      swatch.dataset.kind = kind;
      input.after(swatch);
      Object.assign(input, { name: kind });
      input.parentElement.title = this.content.names[kind] ?? kind;
      input.addEventListener("change", () => ((this.marks[kind] = input.checked), this.paint()));
    }
    if (this.content.events.some((r) => r.flagged)) {
      const ringed = this.control(byId("marks"), "checkbox", "filled, dead or hidden sensors", true);
      ringed.name = "ringed";
      ringed.addEventListener("change", () => ((this.ringed = ringed.checked), this.paint()));
    }
    const table = byId("keys").querySelector("table");
    for (const [keys, what] of KEYS) {
      const row = table.insertRow(), key = row.insertCell();
      key.appendChild(document.createElement("kbd")).textContent = keys;
      cell(row, what);
    }
  }

  control(parent, type, text, checked) {
    const label = parent.appendChild(document.createElement("label")), input = label.appendChild(document.createElement("input"));
    Object.assign(input, { type, checked });
    label.append(` ${text}`);
    return input;
  }

  listen() {
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("play").addEventListener("click", () => this.play());
    byId("help").addEventListener("click", () => byId("keys").showModal());
    byId("theme").addEventListener("click", () => this.theme({ system: "dark", dark: "light", light: "system" }[this.chosenTheme]));
    byId("until").addEventListener("input", (e) => (this.stop(), this.setUntil(Number(e.target.value))));
    for (const id of ["logarithmic", "same_scale"]) byId(id).addEventListener("change", () => this.paint());
    byId("backs").addEventListener("change", (e) => ((this.views[1].backs = e.target.checked), this.views[1].again()));
    byId("sensor").addEventListener("input", (e) => {
      const id = e.target.value === "" ? -1 : Number(e.target.value);
      if (Number.isInteger(id) && id < N_SENSORS) this.hover(id, true);
    });
    byId("controls").addEventListener("submit", (e) => e.preventDefault());
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => (this.views[1].look(button.dataset.view), this.views[1].again()));
    }
    document.addEventListener("keydown", (e) => this.key(e));
    window.addEventListener("hashchange", () => this.follow());
    new ResizeObserver(() => this.event && this.paint()).observe(document.querySelector(".views"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme(this.chosenTheme));
  }

  key(e) {
    const typing = e.target.matches?.("input[type=number], input[type=range], dialog *");
    if (e.ctrlKey || e.altKey || e.metaKey || (typing && e.key !== "Escape")) return;
    const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
    const radio = e.target.matches?.("input[type=radio]") && turn;
    const zoom = { "+": 1.2, "-": 1 / 1.2 }[e.key], press = { l: "logarithmic", s: "same_scale" }[e.key];
    if (e.shiftKey && turn) this.views[1].turn(...turn);
    else if (radio) return;
    else if (e.key === "n" || e.key === "ArrowRight") this.step(1);
    else if (e.key === "p" || e.key === "ArrowLeft") this.step(-1);
    else if (e.key === " " && !e.target.matches?.("button, input, summary")) this.play();
    else if (e.key === "[" || e.key === "]") this.stop(), this.setUntil(Math.min(this.until, this.span[1]) + (e.key === "]" ? 1 : -1));
    else if (press) byId(press).click();
    else if (zoom) (this.views[1].zoom = Math.min(12, Math.max(0.5, this.views[1].zoom * zoom))), this.views[1].again();
    else if (e.key === "m") this.toggleMarks();
    else if (e.key === "r") this.views[0].reset(), this.views[1].look("inner"), this.paint();
    else if (e.key === "/") byId("sensor").focus();
    else if (e.key === "?") byId("keys").showModal();
    else if (e.key === "Escape") this.hover(-1, true), document.activeElement.blur();
    else if (this.quantities[Number(e.key) - 1] && e.key !== " ") this.set({ quantity: this.quantities[Number(e.key) - 1] });
    else return;
    e.preventDefault();
  }

  toggleMarks() {
    const inputs = [...document.querySelectorAll("#marks input")], all = inputs.every((input) => input.checked);
    inputs.filter((input) => input.checked === all).forEach((input) => input.click());
  }

  theme(chosen) {
    this.chosenTheme = chosen;
    this.dark = chosen === "dark" || (chosen === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.className = this.dark ? "dark" : "light";
    byId("theme").textContent = `Theme: ${chosen}`;
    remember("theme", chosen);
    const style = getComputedStyle(document.documentElement);
    this.look = Object.fromEntries(LOOKS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const swatch of document.querySelectorAll(".swatch")) drawMark(fitted(swatch)[0], swatch.dataset.kind, 9, 9, 5.5, this.look);
    if (this.event) this.paint();
  }

  // -------------------------------------------------------------------------------------------------- events

  step(by) {
    const next = this.list.from(this.current, by);
    if (next >= 0) this.show(next);
  }

  /** Show the event that the page's address names. */
  follow() {
    const found = location.hash.length > 1 ? this.events.find(location.hash) : 0;
    if (found < 0) byId("about").textContent = `There is no event ${location.hash.slice(1)} on this page. `;
    if (found !== this.current) return this.show(Math.max(found, 0));
  }

  async show(i) {
    this.current = i;
    const event = await this.events.at(i);
    if (this.current !== i) return; // another was asked for meanwhile
    this.stop();
    this.event = event;
    const { record } = event, all = this.content.events.length;
    byId("which").textContent = `run ${record.run}, event ${record.event} (${i + 1} of ${all})`;
    byId("permalink").href = this.events.address(i);
    if (location.hash !== this.events.address(i)) history.replaceState(null, "", this.events.address(i));
    this.span = [quantile(event.time, 0) || 0, quantile(event.time, 1) || 0];
    Object.assign(byId("until"), { min: Math.floor(this.span[0] * 10) / 10, max: Math.ceil(this.span[1] * 10) / 10 });
    const share = record.lit / N_SENSORS, dead = record.dead ? `, ${record.dead} dead or not measured` : "";
    const filled = record.filled ? `, ${record.filled} filled` : "", relative = this.content.count_unit === "photons" ? "photons" : "times the largest count";
    byId("light").textContent = `${short(record.total, 6)} ${relative} in all on ${record.lit} of ${N_SENSORS} sensors (${short(100 * share, 3)} %)${dead}${filled}`;
    showNumbers(byId("numbers"), record, this.content.names);
    this.list.mark(i);
    this.setUntil(Infinity);
  }

  set(change) {
    Object.assign(this, change);
    document.querySelector(`input[value="${this.quantity}"]`).checked = true;
    this.paint();
  }

  // -------------------------------------------------------------------------------------------------- light

  /** Show the light that arrived until a time in ns. */
  setUntil(time) {
    const [first, last] = this.span;
    this.until = time >= last ? Infinity : Math.max(time, first);
    byId("until").value = Math.min(this.until, last);
    this.paint();
  }

  play() {
    if (this.playing) return this.stop();
    const [first, last] = this.span, range = Math.max((quantile(this.event.time, 0.99) || 0) - first, 1);
    const from = this.until < last ? this.until : first, begun = performance.now();
    byId("play").textContent = "❚❚ Stop";
    const next = (now) => {
      const time = from + ((now - begun) / 1000 / PLAY_SECONDS) * range;
      this.setUntil(time);
      if (time < first + range) this.playing = requestAnimationFrame(next);
      else this.stop(), this.setUntil(Infinity);
    };
    this.playing = requestAnimationFrame(next);
  }

  stop() {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    byId("play").textContent = "▶ Play";
  }

  // --------------------------------------------------------------------------------------------------- paint

  /** Give every sensor its colour, and draw everything. */
  paint() {
    if (!this.event) return;
    const quantity = SHOWN[this.quantity], { event } = this, values = quantity.values(event, this.sensors);
    const map = quantity.signed ? (this.dark ? "differences_dark" : "differences") : quantity.colours;
    const colours = this.content.colours[map], largest = byId("same_scale").checked ? this.largest : 0;
    const scale = scaleOf(quantity, values, colours, byId("logarithmic").checked, largest), codes = new Int16Array(N_SENSORS);
    let arrived = 0, sensors = 0;
    for (let i = 0; i < N_SENSORS; i++) {
      const later = this.until < Infinity && !(event.time[i] <= this.until);
      if (!later && event.npho[i] > 0) (arrived += event.npho[i]), sensors++;
      if (Number.isNaN(event.npho[i]) && Number.isNaN(values[i])) codes[i] = NOT_READ;
      else if (Number.isNaN(values[i])) codes[i] = DARK;
      else codes[i] = later ? LATER : scale.index(values[i]);
    }
    const marks = Object.fromEntries(Object.entries(event.record.marks).filter(([kind]) => this.marks[kind]));
    const flags = this.ringed ? event.flags : new Uint8Array(N_SENSORS);
    this.picture = { codes, colours, flags, marks, look: this.look, hovered: this.hovered < 0 ? this.pinned : this.hovered };
    this.views.forEach((view) => view.draw(this.picture));
    const unit = quantity.unit ?? this.content.count_unit;
    scale.draw(byId("colour_bar"), quantity.label ?? `${quantity.title} [${unit}]`, this.look.text);
    this.say(arrived, sensors);
  }

  say(arrived, sensors) {
    const all = this.until === Infinity, share = (100 * arrived) / (this.event.record.total || 1);
    byId("until_said").textContent = all
      ? `all light; times run from ${short(this.span[0], 3)} to ${short(this.span[1], 3)} ns, 0 is the earliest bright sensor`
      : `${this.until.toFixed(1)} ns: ${sensors} sensors have their time, ${share.toFixed(0)} % of all light is theirs`;
    byId("legend").textContent = "✕ not measured · grey: no light, or not yet · " + (this.content.expected ? `expected: ${this.content.expected}` : "");
    const { run, event } = this.event.record, what = `run ${run}, event ${event}, coloured by ${SHOWN[this.quantity].title}`;
    byId("unfolded").setAttribute("aria-label", `Six faces unfolded: ${what}`);
    byId("detector").setAttribute("aria-label", `Detector in three dimensions: ${what}`);
    this.readout();
  }

  /** Point at a sensor in both pictures; pinned ones stay when the pointer leaves. */
  hover(id, pin = false) {
    if (id === this.hovered && !pin) return;
    this.hovered = id;
    if (pin) {
      this.pinned = id;
      if (document.activeElement !== byId("sensor")) byId("sensor").value = id < 0 ? "" : id;
    }
    if (!this.picture) return;
    this.picture.hovered = id < 0 ? this.pinned : id;
    this.views.forEach((view) => view.again());
    this.readout();
  }

  readout() {
    const { event, picture } = this, id = picture.hovered;
    byId("readout").textContent = id < 0 ? "Point at a sensor, in either picture; a click keeps it." : this.describe(event, id);
  }

  describe(event, id) {
    const photons = this.content.count_unit === "photons", unit = photons ? "photons" : "of the largest";
    const electrons = photons ? ` (${short(event.npho[id] * this.sensors.efficiency(id), 3)} photoelectrons)` : "";
    const count = event.npho[id] > 0 ? `count ${short(event.npho[id])} ${unit}${electrons}` : event.npho[id] === 0 ? "read, no light" : "not measured";
    const parts = [count, event.time[id] === event.time[id] ? `time ${event.time[id].toFixed(2)} ns` : "no time"];
    if (event.expected && event.expected[id] >= 0) parts.push(`expected ${short(event.expected[id])}`);
    if (event.expectedTime && event.expectedTime[id] === event.expectedTime[id]) parts.push(`expected time ${event.expectedTime[id].toFixed(2)} ns`);
    for (const [bit, word] of [[FILLED, "filled"], [DEAD, "dead"], [HIDDEN, "hidden"]]) if (event.flags[id] & bit) parts.push(word);
    return `${this.sensors.name(id)}: ${parts.join(" · ")}`;
  }
}

/** What the browser keeps of a choice; pages opened as files may have no store. */
function recalled(name) {
  try {
    return localStorage.getItem(`xec ${name}`);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`xec ${name}`, value);
  } catch {
    // then it is asked again next time
  }
}

(async () => {
  const content = JSON.parse(byId("content").textContent);
  const page = new Page(content, await Sensors.unpack(content));
  await page.follow();
  requestAnimationFrame(() => performance.mark("first picture"));
  window.page = page;
})();
