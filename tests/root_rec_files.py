"""Rec files as C++ ROOT writes them, for tests: run by an interpreter that has the package `ROOT`.

    python tests/root_rec_files.py EVENTS.npz FOLDER [objects]

Writes `arrays.root` (leaf lists), `vectors.root` (`std::vector`, of vectors too), `objects.root` (split objects and
TClonesArrays with arrays behind pointers, as the analyser's are), `shallow.root` (the same, split at one level) and
`whole.root` (not split at all, which only the classes' own code could read); with a third word only that file.
`tests/data/rec000321.root` is an `objects.root` of `tests/recfiles.py`'s `small_events`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

CODE = r"""
#include <vector>
#include "TClonesArray.h"
#include "TFile.h"
#include "TTree.h"
const int kSensors = 4760;
struct TestInfo : public TObject { Long64_t run = 0; Long64_t event = 0; ClassDefInline(TestInfo, 1) };
struct TestHeader : public TObject { Short_t mask = 0; ClassDefInline(TestHeader, 1) };
struct TestCluster : public TObject {
  Int_t nphoSize = 0; Float_t* npho = nullptr;  //[nphoSize]
  Int_t npheSize = 0; Float_t* nphe = nullptr;  //[npheSize]
  Int_t tpmSize = 0;  Double_t* tpm = nullptr;  //[tpmSize]
  Short_t bad = 0;
  void set(int photons, const float* values, int stride, int sensor) {
    delete[] npho; delete[] nphe; delete[] tpm;
    nphoSize = npheSize = tpmSize = photons;
    npho = new Float_t[photons]; nphe = new Float_t[photons]; tpm = new Double_t[photons];
    for (int j = 0; j < photons; j++) {
      npho[j] = values[j * 3 * stride + sensor];
      nphe[j] = values[j * 3 * stride + stride + sensor];
      tpm[j] = values[j * 3 * stride + 2 * stride + sensor];
    }
  }
  ClassDefInline(TestCluster, 1)
};
struct TestFit : public TObject { Double_t xyz[3] = {0, 0, 0}; Double_t chisq = 0; ClassDefInline(TestFit, 1) };
struct TestTime : public TObject { Double_t time = 0; ClassDefInline(TestTime, 1) };
struct TestReco : public TObject {
  Int_t nGamma = 0;
  Int_t EGammaSize = 0; Double_t* EGamma = nullptr;  //[EGammaSize]
  Int_t EvstatGammaSize = 0; Int_t* EvstatGamma = nullptr;  //[EvstatGammaSize]
  Int_t XPositronSize = 0; Double_t* XPositron = nullptr;  //[XPositronSize]
  Int_t YPositronSize = 0; Double_t* YPositron = nullptr;  //[YPositronSize]
  Int_t ZPositronSize = 0; Double_t* ZPositron = nullptr;  //[ZPositronSize]
  ClassDefInline(TestReco, 1)
};

// energies (n, 2), times (n, 2), xyz (n, 2, 3), flags (n, 2), vertices (n, 3), sensors (n, 2, 3, 4760)
void write_objects(const char* name, int split, int n, const int* photons, const int* ids, const double* energies,
                   const double* times, const float* xyz, const int* flags, const float* vertices,
                   const float* sensors) {
  TFile file(name, "RECREATE", "", 209);
  TTree tree("rec", "rec");
  auto* info = new TestInfo; auto* header = new TestHeader; auto* reco = new TestReco;
  auto* clusters = new TClonesArray("TestCluster", kSensors);
  auto* fits = new TClonesArray("TestFit", 2); auto* clocks = new TClonesArray("TestTime", 2);
  tree.Branch("Info.", &info, 32000, split); tree.Branch("eventheader.", &header, 32000, split);
  tree.Branch("reco.", &reco, 32000, split); tree.Branch("xeccl", &clusters, 32000, split);
  tree.Branch("xecposlfit", &fits, 32000, split); tree.Branch("xectimefit", &clocks, 32000, split);
  reco->EGamma = new Double_t[2]; reco->EvstatGamma = new Int_t[2];
  reco->XPositron = new Double_t[2]; reco->YPositron = new Double_t[2]; reco->ZPositron = new Double_t[2];
  for (int i = 0; i < n; i++) {
    int k = photons[i];
    info->run = ids[3 * i]; info->event = ids[3 * i + 1]; header->mask = ids[3 * i + 2];
    reco->nGamma = reco->EGammaSize = reco->EvstatGammaSize = k;
    reco->XPositronSize = reco->YPositronSize = reco->ZPositronSize = 2;
    fits->Clear(); clocks->Clear(); clusters->Clear();
    for (int j = 0; j < k; j++) {
      reco->EGamma[j] = energies[2 * i + j]; reco->EvstatGamma[j] = flags[2 * i + j];
      auto* fit = (TestFit*)fits->ConstructedAt(j);
      for (int a = 0; a < 3; a++) fit->xyz[a] = xyz[6 * i + 3 * j + a];
      ((TestTime*)clocks->ConstructedAt(j))->time = times[2 * i + j];
    }
    for (int j = 0; j < 2; j++) {
      reco->XPositron[j] = j ? 50 : vertices[3 * i]; reco->YPositron[j] = j ? 50 : vertices[3 * i + 1];
      reco->ZPositron[j] = j ? 50 : vertices[3 * i + 2];
    }
    for (int s = 0; s < kSensors; s++) {
      auto* cluster = (TestCluster*)clusters->ConstructedAt(s);
      cluster->set(k, sensors + (size_t)i * 6 * kSensors, kSensors, s); cluster->bad = s % 1000 == 7;
    }
    tree.Fill();
  }
  tree.Write();
}

void write_arrays(const char* name, int n, const int* photons, const int* ids, const double* energies,
                  const double* times, const float* xyz, const int* flags, const float* vertices,
                  const float* sensors) {
  TFile file(name, "RECREATE", "", 209);
  TTree tree("rec", "rec");
  int run, event, nGamma, pileup[2]; short mask; double energy[2], time[2]; float position[2][3], vertex[3];
  static float npho[kSensors], nphe[kSensors], tpm[kSensors];
  tree.Branch("run", &run, "run/I"); tree.Branch("event", &event, "event/I"); tree.Branch("mask", &mask, "mask/S");
  tree.Branch("nGamma", &nGamma, "nGamma/I"); tree.Branch("energyReco", energy, "energyReco[nGamma]/D");
  tree.Branch("timeReco", time, "timeReco[nGamma]/D"); tree.Branch("xyzRecoFI", position, "xyzRecoFI[nGamma][3]/F");
  tree.Branch("pileup", pileup, "pileup[nGamma]/I"); tree.Branch("xyzVTX", vertex, "xyzVTX[3]/F");
  tree.Branch("npho", npho, "npho[4760]/F"); tree.Branch("nphe", nphe, "nphe[4760]/F");
  tree.Branch("tpm", tpm, "tpm[4760]/F");
  for (int i = 0; i < n; i++) {
    nGamma = photons[i]; run = ids[3 * i]; event = ids[3 * i + 1]; mask = ids[3 * i + 2];
    for (int j = 0; j < 2; j++) {
      energy[j] = energies[2 * i + j]; time[j] = times[2 * i + j]; pileup[j] = flags[2 * i + j];
      for (int a = 0; a < 3; a++) position[j][a] = xyz[6 * i + 3 * j + a];
    }
    for (int a = 0; a < 3; a++) vertex[a] = vertices[3 * i + a];
    for (int s = 0; s < kSensors; s++) {
      const float* values = sensors + (size_t)i * 6 * kSensors;
      npho[s] = values[s]; nphe[s] = values[kSensors + s]; tpm[s] = values[2 * kSensors + s];
    }
    tree.Fill();
  }
  tree.Write();
}

void write_vectors(const char* name, int n, const int* photons, const int* ids, const double* energies,
                   const double* times, const float* xyz, const int* flags, const float* vertices,
                   const float* sensors) {
  TFile file(name, "RECREATE", "", 209);
  TTree tree("rec", "rec");
  int run, event; short mask; std::vector<double> energy, time; std::vector<int> pileup; std::vector<float> vertex;
  std::vector<std::vector<float>> position, npho, nphe, tpm;
  tree.Branch("run", &run, "run/I"); tree.Branch("event", &event, "event/I"); tree.Branch("mask", &mask, "mask/S");
  tree.Branch("energyReco", &energy); tree.Branch("timeReco", &time); tree.Branch("xyzRecoFI", &position);
  tree.Branch("pileup", &pileup); tree.Branch("xyzVTX", &vertex);
  tree.Branch("npho", &npho); tree.Branch("nphe", &nphe); tree.Branch("tpm", &tpm);
  for (int i = 0; i < n; i++) {
    run = ids[3 * i]; event = ids[3 * i + 1]; mask = ids[3 * i + 2];
    energy.clear(); time.clear(); pileup.clear(); position.clear(); npho.clear(); nphe.clear(); tpm.clear();
    for (int j = 0; j < photons[i]; j++) {
      energy.push_back(energies[2 * i + j]); time.push_back(times[2 * i + j]); pileup.push_back(flags[2 * i + j]);
      const float* p = xyz + 6 * i + 3 * j;
      position.push_back(std::vector<float>(p, p + 3));
      const float* v = sensors + (size_t)(2 * i + j) * 3 * kSensors;
      npho.push_back(std::vector<float>(v, v + kSensors));
      nphe.push_back(std::vector<float>(v + kSensors, v + 2 * kSensors));
      tpm.push_back(std::vector<float>(v + 2 * kSensors, v + 3 * kSensors));
    }
    vertex.assign(vertices + 3 * i, vertices + 3 * i + 3);
    tree.Fill();
  }
  tree.Write();
}
"""


def main(events: str, folder: str, only: str = "") -> None:
    """Write all files, or one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ROOT
    ROOT.gROOT.SetBatch(True)
    if not ROOT.gInterpreter.Declare(CODE):
        raise SystemExit("the code does not compile")
    with np.load(events) as found:
        order = ("photons", "ids", "energies", "times", "xyz", "flags", "vertices", "sensors")
        arrays = [np.ascontiguousarray(found[name]) for name in order]
    n = len(arrays[0])
    out = Path(folder)
    for name, split in (("objects", 99), ("shallow", 1), ("whole", 0)):
        if only in (name, ""):
            ROOT.write_objects(str(out / f"{name}.root"), split, n, *arrays)
    if not only:
        ROOT.write_arrays(str(out / "arrays.root"), n, *arrays)
        ROOT.write_vectors(str(out / "vectors.root"), n, *arrays)


if __name__ == "__main__":
    main(*sys.argv[1:4])
