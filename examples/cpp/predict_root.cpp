// Print what a network says of the events of a ROOT file.
//
//   predict_root MODEL.onnx FILE.root [LIBRARY [TREE]]
//
// Counts and times are read from the branches that the network was trained on; arrays of 4760 numbers, or vectors.
// LIBRARY is ONNX Runtime's, by default libonnxruntime.so where the system finds it; TREE is `tree` by default.
#include <TFile.h>
#include <TTree.h>
#include <TTreeReader.h>
#include <TTreeReaderArray.h>
#include <TTreeReaderValue.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "network.hpp"

namespace {

/// The strings of a JSON list of strings without quotes in them, as `xecml.branches` is.
std::vector<std::string> strings(const std::string& json) {
  std::vector<std::string> found;
  for (std::size_t at = json.find('"'); at != std::string::npos; at = json.find('"', at + 1)) {
    const std::size_t end = json.find('"', at + 1);
    if (end == std::string::npos) {
      break;
    }
    found.push_back(json.substr(at + 1, end - at - 1));
    at = end;
  }
  return found;
}

std::string number_of(std::optional<TTreeReaderValue<int>>& run, std::optional<TTreeReaderValue<int>>& event,
                      long long entry) {
  return run && event ? std::to_string(**run) + "/" + std::to_string(**event) : std::to_string(entry);
}

void predict(const std::string& model, const std::string& path, const std::string& library, const std::string& tree) {
  load_runtime(library);
  Network network(model);
  const std::unique_ptr<TFile> file(TFile::Open(path.c_str()));
  if (!file || file->IsZombie()) {
    throw std::runtime_error("Cannot read " + path + "; check the path.");
  }
  TTree* const events = file->Get<TTree>(tree.c_str());
  if (events == nullptr) {
    throw std::runtime_error(path + " has no tree '" + tree + "'; name another.");
  }
  const std::vector<std::string> branches = strings(network.said("xecml.branches"));
  if (branches.size() != 2) {
    throw std::runtime_error(model + " does not say which branches it reads; export it with 'xec export'.");
  }
  for (const std::string& branch : branches) {
    if (events->GetBranch(branch.c_str()) == nullptr) {
      throw std::runtime_error(path + " has no branch '" + branch + "', which the network reads; name another file.");
    }
  }
  TTreeReader reader(events);
  TTreeReaderArray<float> counts(reader, branches[0].c_str()), times(reader, branches[1].c_str());
  std::optional<TTreeReaderValue<int>> run, event;
  if (events->GetBranch("run") != nullptr && events->GetBranch("event") != nullptr) {
    run.emplace(reader, "run");
    event.emplace(reader, "event");
  }
  std::vector<float> npho, time;
  while (reader.Next()) {
    npho.assign(counts.begin(), counts.end());
    time.assign(times.begin(), times.end());
    const long long entry = reader.GetCurrentEntry();
    print(number_of(run, event, entry), network(npho, time), entry == 0);
  }
  if (reader.GetEntryStatus() != TTreeReader::kEntryBeyondEnd) {
    throw std::runtime_error(path + " could not be read to its end; its branches must hold 32-bit numbers.");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 5) {
    std::fprintf(stderr, "usage: %s MODEL.onnx FILE.root [LIBRARY [TREE]]\n", arguments[0]);
    return 2;
  }
  try {
    predict(arguments[1], arguments[2], count > 3 ? arguments[3] : "libonnxruntime.so",
            count > 4 ? arguments[4] : "tree");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 2;
  }
  return 0;
}
