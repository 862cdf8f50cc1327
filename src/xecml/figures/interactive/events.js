"use strict";
/* Unpacking: see packing.py for how sensors and events were packed. */

const N_SENSORS = 4760;
const FILLED = 1, DEAD = 2, HIDDEN = 4;

/** Bytes of a text of base64 that was compressed with gzip. */
async function unpacked(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reads planes of numbers one after the other; of 16 bits all low bytes come before all high ones. */
class Planes {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get left() {
    return this.at < this.bytes.length;
  }

  octets() {
    this.at += N_SENSORS;
    return this.bytes.subarray(this.at - N_SENSORS, this.at);
  }

  words() {
    const low = this.octets(), high = this.octets();
    return Uint16Array.from(low, (octet, i) => octet | (high[i] << 8));
  }

  signed() {
    return new Int16Array(this.words().buffer);
  }
}

/** Counts of codes: NaN where not measured, 0 where no light was seen. */
function counts(codes, step) {
  return Float32Array.from(codes, (code) => (code === 0 ? NaN : ((code - 1) * step) ** 2));
}

/** Times in ns of codes, NaN where there is none. */
function times(codes, first, step) {
  return Float32Array.from(codes, (code) => (code === 0 ? NaN : first + (code - 1) * step));
}

/** The events of the page; each is unpacked when it is first shown. */
class Events {
  constructor(records) {
    this.records = records;
    this.kept = new Map();
  }

  async at(i) {
    if (!this.kept.has(i)) this.kept.set(i, this.unpack(this.records[i]));
    return this.kept.get(i);
  }

  async unpack(record) {
    const planes = new Planes(await unpacked(record.data)), event = { record };
    event.flags = planes.octets();
    event.npho = counts(planes.words(), record.count_step);
    event.time = times(planes.words(), record.time_first, record.time_step);
    event.expected = planes.left ? counts(planes.words(), record.count_step) : null;
    event.expectedTime = planes.left ? times(planes.words(), record.time_first, record.time_step) : null;
    return event;
  }

  /** Address of an event: #run,event, and the entry after it if several have the same numbers. */
  address(i) {
    const { run, event, entry } = this.records[i];
    const same = this.records.filter((r) => r.run === run && r.event === event);
    return `#${run},${event}` + (same.length > 1 ? `,${entry}` : "");
  }

  /** Which event an address means; -1 if none. */
  find(address) {
    const [run, event, entry] = address.replace(/^#/, "").split(",").map(Number);
    return this.records.findIndex(
      (r) => r.run === run && r.event === event && (entry === undefined || r.entry === entry),
    );
  }
}
