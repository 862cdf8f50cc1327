"use strict";
/* The list of events: sorted by a click on a column, filtered by ranges. */

const COLUMNS = {
  entry: { title: "run, event", about: "in the order of the file" },
  energy: { title: "energy [MeV]", about: "true where known", filter: true },
  depth: { title: "depth w [cm]", about: "of the first interaction, true where known", filter: true },
  position: { title: "position off [mm]", about: "distance of the estimate from the true first interaction", worst: true },
  energy_error: { title: "energy off [%]", about: "size of estimate over truth, less one", worst: true },
  time_error: { title: "time off [ps]", about: "size of estimate less truth", worst: true },
  angle: { title: "angle off [deg]", about: "opening angle between estimate and truth", worst: true },
  outlier: { title: "outlier", about: "how far from the events of the training; 1 % of these have more than 1", worst: true, filter: true },
  dead: { title: "dead", about: "sensors without a measurement, known to be dead, or filled", worst: true, filter: true },
};

class EventList {
  constructor(table, filters, said, events, onChoose) {
    Object.assign(this, { table, said, events, onChoose, by: "entry", down: false, limits: {} });
    this.rows = events.records.map((record, i) => ({ i, entry: record.entry, ...summary(record) }));
    const known = (name) => name === "entry" || this.rows.some((row) => Number.isFinite(row[name]));
    this.columns = Object.keys(COLUMNS).filter(known);
    this.columns.filter((name) => COLUMNS[name].filter).forEach((name) => this.addFilter(filters, name));
    filters.addEventListener("submit", (e) => e.preventDefault());
    this.update();
  }

  addFilter(form, name) {
    const group = form.appendChild(document.createElement("span"));
    group.append(COLUMNS[name].title);
    for (const side of ["from", "to"]) {
      const label = group.appendChild(document.createElement("label")), input = document.createElement("input");
      Object.assign(input, { type: "number", step: "any", name: `${name}_${side}` });
      label.append(` ${side}`, input);
      input.addEventListener("input", () => {
        (this.limits[name] ??= {})[side] = input.value === "" ? null : Number(input.value);
        this.update();
      });
    }
  }

  passes(row) {
    return Object.entries(this.limits).every(
      ([name, { from, to }]) => (from == null || row[name] >= from) && (to == null || row[name] <= to),
    );
  }

  sortBy(name) {
    // errors begin with the worst
    this.down = this.by === name ? !this.down : Boolean(COLUMNS[name].worst);
    this.by = name;
    this.update();
  }

  update() {
    const sign = this.down ? -1 : 1, value = (row) => (Number.isFinite(row[this.by]) ? row[this.by] : sign * 1e300);
    this.shown = this.rows.filter((row) => this.passes(row));
    this.shown.sort((a, b) => sign * (value(a) - value(b)) || a.entry - b.entry);
    this.said.textContent = `${this.shown.length} of ${this.rows.length} shown; a click on a title sorts, by errors the worst first`;
    this.fill();
  }

  fill() {
    this.table.replaceChildren();
    const head = this.table.createTHead().insertRow(), body = this.table.createTBody();
    for (const name of this.columns) {
      const title = cell(head, "", "th"), button = title.appendChild(document.createElement("button"));
      title.scope = "col";
      if (name === this.by) title.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      button.textContent = COLUMNS[name].title + (name === this.by ? (this.down ? " ▼" : " ▲") : "");
      Object.assign(button, { type: "button", title: COLUMNS[name].about });
      button.dataset.sort = name;
      button.addEventListener("click", () => this.sortBy(name));
    }
    for (const row of this.shown) {
      const line = body.insertRow(), { run, event } = this.events.records[row.i];
      line.dataset.index = row.i;
      for (const name of this.columns) {
        if (name !== "entry") cell(line, Number.isFinite(row[name]) ? short(row[name], 3) : "-");
        else cell(line, "").appendChild(document.createElement("button")).textContent = `${run}, ${event}`;
      }
      line.addEventListener("click", () => this.onChoose(row.i));
    }
    this.mark(this.chosen);
  }

  /** Mark the event that is shown. */
  mark(i) {
    this.chosen = i;
    for (const line of this.table.tBodies[0]?.rows ?? []) {
      const current = Number(line.dataset.index) === i;
      if (current) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
      if (current && this.table.parentElement.scrollHeight > this.table.parentElement.clientHeight) {
        const box = this.table.parentElement, top = line.offsetTop - box.clientHeight / 2;
        if (Math.abs(box.scrollTop - top) > box.clientHeight / 2.5) box.scrollTop = top;
      }
    }
  }

  /** The event that is `step` places further in the list, round its ends; -1 if none passes the filters. */
  from(i, step) {
    if (!this.shown.length) return -1;
    const at = this.shown.findIndex((row) => row.i === i), n = this.shown.length;
    return this.shown[at < 0 ? 0 : (at + step + n) % n].i;
  }
}
