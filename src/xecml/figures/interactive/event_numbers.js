"use strict";
/* The numbers of an event: true, the model's, the conventional, and their differences. */

const QUANTITIES = {
  energy: { unit: "MeV", digits: 2, difference: (a, b) => [100 * (a / b - 1), "%"] },
  timing: { name: "time", unit: "ns", digits: 3, difference: (a, b) => [1000 * (a - b), "ps"] },
  theta: { unit: "deg", digits: 2, difference: (a, b) => [a - b, "deg"] },
  phi: { unit: "deg", digits: 2, difference: (a, b) => [((((a - b + 180) % 360) + 360) % 360) - 180, "deg"] },
  u: { unit: "cm", digits: 2, difference: (a, b) => [10 * (a - b), "mm"] },
  v: { unit: "cm", digits: 2, difference: (a, b) => [10 * (a - b), "mm"] },
  w: { unit: "cm", digits: 2, difference: (a, b) => [10 * (a - b), "mm"] },
};
const KINDS = ["true", "model", "conventional"];

/** Angle in degrees between two directions by theta and phi; NaN if one is not known. */
function openingAngle(a, b) {
  if (![a.theta, a.phi, b.theta, b.phi].every(Number.isFinite)) return NaN;
  const vector = ({ theta, phi }) => {
    const [t, p] = [theta, phi].map((v) => (v * Math.PI) / 180);
    return [Math.sin(t) * Math.cos(p), Math.sin(t) * Math.sin(p), Math.cos(t)];
  };
  const [one, two] = [vector(a), vector(b)], dot = one.reduce((sum, v, i) => sum + v * two[i], 0);
  return (Math.acos(Math.min(1, Math.max(-1, dot))) * 180) / Math.PI;
}

/** What the list sorts and filters by: values of an event, and how far the best estimate is from the truth. */
function summary(record) {
  const { true: truth = {}, model, conventional } = record.values;
  // the model's where it answers that quantity
  const estimate = { ...conventional, ...model }, either = { ...estimate, ...truth };
  const away = (name) => (name in truth && name in estimate ? QUANTITIES[name].difference(estimate[name], truth[name])[0] : NaN);
  return {
    energy: either.energy ?? NaN,
    depth: either.w ?? NaN,
    position: Math.hypot(away("u"), away("v"), away("w")),
    energy_error: Math.abs(away("energy")),
    time_error: Math.abs(away("timing")),
    angle: openingAngle(truth, estimate),
    outlier: record.outlier ?? NaN,
    dead: record.dead,
  };
}

function cell(row, text, tag = "td") {
  const made = row.appendChild(document.createElement(tag));
  made.textContent = text;
  return made;
}

/** A column of the table: one kind's values, with their widths where the model predicts them. */
function valueColumn(record, kind) {
  const values = record.values[kind], sigma = kind === "model" ? record.sigma : {};
  return (name) => {
    if (!(name in values)) return "-";
    const { digits } = QUANTITIES[name];
    return values[name].toFixed(digits) + (name in sigma ? ` ± ${sigma[name].toFixed(digits)}` : "");
  };
}

/** A column of differences between two kinds, in the units that resolutions are quoted in. */
function differenceColumn(a, b) {
  return (name) => {
    if (!(name in a && name in b)) return "-";
    const [value, unit] = QUANTITIES[name].difference(a[name], b[name]);
    return `${value > 0 ? "+" : ""}${short(value, 3)} ${unit}`;
  };
}

/** Fill the table of an event: a line for each quantity; true, estimates, and how far these are from the first. */
function showNumbers(table, record, names) {
  table.replaceChildren();
  const head = table.createTHead().insertRow(), body = table.createTBody();
  const kinds = KINDS.filter((kind) => record.values[kind]), [from, ...others] = kinds;
  const columns = kinds.map((kind) => valueColumn(record, kind));
  columns.push(...others.map((kind) => differenceColumn(record.values[kind], record.values[from])));
  const titles = [...kinds, ...others.map((kind) => `${kind} − ${from}`)];
  cell(head, "", "td");
  titles.forEach((title, i) => Object.assign(cell(head, title, "th"), { scope: "col", title: names[kinds[i]] ?? title }));
  for (const [name, { unit, name: other }] of Object.entries(QUANTITIES)) {
    const row = body.insertRow();
    cell(row, `${other ?? name} [${unit}]`, "th").scope = "row";
    columns.forEach((column) => cell(row, column(name)));
  }
  const row = body.insertRow();
  cell(row, "opening angle", "th").scope = "row";
  kinds.forEach(() => cell(row, ""));
  for (const kind of others) {
    const angle = openingAngle(record.values[kind], record.values[from]);
    cell(row, Number.isFinite(angle) ? `${short(angle, 3)} deg` : "-");
  }
}
