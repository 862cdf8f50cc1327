// ONNX Runtime, found when the program runs.
//
// A program that is linked to libonnxruntime asks for exactly the version that it was built with. This one is built
// with headers alone: it opens the library by name, and asks it for the newest API that both know. Members of the API
// never move, so headers of a newer version serve an older library as long as only old members are called.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

#define ORT_API_MANUAL_INIT  // the API is set by load_runtime
#include <onnxruntime_cxx_api.h>

struct Runtime {
  std::string version;  // of the library, "1.21.0"
  std::uint32_t api;    // that it is asked for
};

/// Open the library and make its API that of all of namespace Ort. Throws std::runtime_error with the reason.
inline Runtime load_runtime(const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: Ort's objects live in it
  if (handle == nullptr) {
    throw std::runtime_error("ONNX Runtime cannot be loaded: " + std::string(dlerror()) + "; name its library.");
  }
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) {
    throw std::runtime_error(library + " is not ONNX Runtime: it has no OrtGetApiBase; name another library.");
  }
  const OrtApiBase* const base = get_base();
  const std::string version = base->GetVersionString();
  // version 1.N knows the APIs up to N; asked for more it answers null, and prints a line
  unsigned minor = ORT_API_VERSION;
  std::sscanf(version.c_str(), "%*u.%u", &minor);
  const OrtApi* api = nullptr;
  std::uint32_t number = std::min<std::uint32_t>(minor, ORT_API_VERSION) + 1;
  while (api == nullptr && number > 1) {
    api = base->GetApi(--number);
  }
  if (api == nullptr) {
    throw std::runtime_error(library + ", version " + version + ", has no API that this program knows.");
  }
  Ort::InitApi(api);
  return {version, number};
}
