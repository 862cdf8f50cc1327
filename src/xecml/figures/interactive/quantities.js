"use strict";
/* What sensors can be coloured by: values, unit, scale. */

/** The share `q` of sorted values that lies below; NaN of none. */
function quantile(values, q) {
  const known = Float32Array.from(values.filter((v) => Number.isFinite(v))).sort();
  return known.length ? known[Math.min(known.length - 1, Math.floor(q * known.length))] : NaN;
}

/** A value for each sensor, from two others. */
function each(a, b, of) {
  return Float32Array.from(a, (value, i) => of(value, b[i], i));
}

const lit = (count) => (count > 0 ? count : NaN);

/**
 * Quantities by name. `values` gives a number for each sensor, NaN where there is none; `signed` ones are differences.
 * Those without `needs` are in every event.
 */
const SHOWN = {
  counts: { title: "counts", colours: "counts", logarithmic: true, values: (e) => e.npho.map(lit) },
  times: { title: "times", colours: "times", unit: "ns", label: "time after the earliest bright sensor [ns]", values: (e) => e.time },
  expected: { title: "expected counts", needs: "expected", colours: "counts", logarithmic: true, values: (e) => e.expected.map(lit) },
  difference: {
    title: "expected − measured", needs: "expected", signed: true, logarithmic: true,
    values: (e) => each(e.expected, e.npho, (expected, measured) => expected - measured),
  },
  significance: {
    title: "difference / σ", needs: "expected", signed: true, photons: true, unit: "σ",
    label: "expected − measured, in standard deviations of the expected photoelectrons",
    values: (e, sensors) => each(e.expected, e.npho, (expected, measured, i) => {
      const efficiency = sensors.efficiency(i);
      return ((expected - measured) * efficiency) / Math.sqrt(Math.max(expected * efficiency, 1));
    }),
  },
  expected_times: {
    title: "expected times", needs: "expectedTime", colours: "times", unit: "ns",
    label: "expected time after the earliest bright sensor [ns]", values: (e) => e.expectedTime,
  },
  time_difference: {
    title: "time difference", needs: "expectedTime", signed: true, unit: "ns", label: "expected − measured time [ns]",
    values: (e) => each(e.expectedTime, e.time, (expected, measured) => expected - measured),
  },
};

/** Scale of a quantity for values; where it is to be the same for all events, `largest` is the largest count of any. */
function scaleOf(quantity, values, colours, logarithmic, largest) {
  if (quantity.signed) {
    const end = quantile(values.map(Math.abs), 0.995) || 1;
    return new ColourScale(colours, logarithmic && quantity.logarithmic ? "asinh" : "linear", -end, end, end / 300);
  }
  if (quantity.colours === "times") return new ColourScale(colours, "linear", 0, Math.max(quantile(values, 0.9) || 0, 1e-3));
  const high = largest || values.reduce((most, v) => (v > most ? v : most), 0) || 1;
  // four decades at most: below, colours would be spent on sensors of a single photoelectron
  const low = largest ? high * 1e-4 : Math.max(Math.min(quantile(values, 0.01), high / 2), high * 1e-4);
  return logarithmic ? new ColourScale(colours, "log", low || high * 1e-4, high) : new ColourScale(colours, "linear", 0, high);
}
