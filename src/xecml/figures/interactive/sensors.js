"use strict";
/* The 4760 sensors: where they are, what they are called, their outlines in space. */

const SIPM_SIDE = 1.23; // outline of a SiPM's four chips, cm

class Sensors {
  static async unpack(content) {
    const planes = new Planes(await unpacked(content.sensors)), cm = () => Float32Array.from(planes.signed(), (v) => v / 100);
    const sensors = new Sensors();
    [sensors.x, sensors.y, sensors.z, sensors.across, sensors.up] = [cm(), cm(), cm(), cm(), cm()];
    sensors.normal = [0, 1, 2].map(() => Float32Array.from(planes.signed(), (v) => v / 1e4));
    sensors.face = planes.octets();
    sensors.about = content;
    sensors.outline();
    return sensors;
  }

  isSipm(id) {
    return id < this.about.n_sipm;
  }

  /** Photoelectrons for a photon. */
  efficiency(id) {
    return this.isSipm(id) ? this.about.efficiency.sipm : this.about.efficiency.pmt;
  }

  radius(id) {
    return this.isSipm(id) ? SIPM_SIDE / 2 : this.about.pmt_radius;
  }

  name(id) {
    const face = this.about.faces[this.face[id]], columns = this.about.inner_columns;
    const place = this.isSipm(id) ? `, row ${Math.floor(id / columns)}, column ${id % columns}` : "";
    return `sensor ${id} (${face}${place}, ${this.isSipm(id) ? "SiPM" : "PMT"})`;
  }

  /** Corners of all sensors in space: squares of SiPMs, octagons of PMTs; those of sensor i from start[i] on. */
  outline() {
    const square = [45, 135, 225, 315], octagon = [0, 45, 90, 135, 180, 225, 270, 315];
    const corners = [];
    this.start = new Int32Array(N_SENSORS + 1);
    for (let i = 0; i < N_SENSORS; i++) {
      const n = this.normal.map((component) => component[i]);
      const flat = Math.hypot(n[0], n[1]);
      const a = [-n[1] / flat, n[0] / flat, 0]; // around the beam
      const b = [n[1] * a[2] - n[2] * a[1], n[2] * a[0] - n[0] * a[2], n[0] * a[1] - n[1] * a[0]];
      const reach = this.isSipm(i) ? SIPM_SIDE / Math.SQRT2 : this.about.pmt_radius;
      for (const degrees of this.isSipm(i) ? square : octagon) {
        const c = reach * Math.cos((degrees * Math.PI) / 180), s = reach * Math.sin((degrees * Math.PI) / 180);
        corners.push(this.x[i] + c * a[0] + s * b[0], this.y[i] + c * a[1] + s * b[1], this.z[i] + c * a[2] + s * b[2]);
      }
      this.start[i + 1] = corners.length / 3;
    }
    this.corners = Float32Array.from(corners);
  }
}
