// Print what a network says of events.
//
//   predict MODEL.onnx EVENTS.f32 [LIBRARY]
//
// EVENTS.f32 holds, event after event, 4760 counts and 4760 times as 32-bit floating-point numbers of this machine.
// LIBRARY is ONNX Runtime's, by default libonnxruntime.so where the system finds it.
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "network.hpp"

namespace {

/// Read the next event; false at the end of the file.
bool next_event(std::ifstream& file, const std::string& path, std::vector<float>& npho, std::vector<float>& time) {
  constexpr std::streamsize bytes = kSensors * sizeof(float);
  file.read(reinterpret_cast<char*>(npho.data()), bytes);
  if (file.gcount() == 0) {
    return false;
  }
  if (file) {
    file.read(reinterpret_cast<char*>(time.data()), bytes);
  }
  if (!file) {
    throw std::runtime_error(path + " ends within an event; it must hold 2 x 4760 numbers of 4 bytes for each.");
  }
  return true;
}

void predict(const std::string& model, const std::string& events, const std::string& library) {
  const Runtime runtime = load_runtime(library);
  std::fprintf(stderr, "ONNX Runtime %s, API %u\n", runtime.version.c_str(), runtime.api);
  Network network(model);
  std::ifstream file(events, std::ios::binary);
  if (!file) {
    throw std::runtime_error("Cannot read " + events + "; check the path.");
  }
  std::vector<float> npho(kSensors), time(kSensors);
  for (int i = 0; next_event(file, events, npho, time); ++i) {
    print(std::to_string(i), network(npho, time), i == 0);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 4) {
    std::fprintf(stderr, "usage: %s MODEL.onnx EVENTS.f32 [LIBRARY]\n", arguments[0]);
    return 2;
  }
  try {
    predict(arguments[1], arguments[2], count == 4 ? arguments[3] : "libonnxruntime.so");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 2;
  }
  return 0;
}
