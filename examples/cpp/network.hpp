// An exported network as a function of one event.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "onnx_runtime.hpp"

constexpr std::size_t kSensors = 4760;

struct Answer {
  std::string name;           // of the output: angle, energy, ...
  std::vector<float> values;  // in the units of the file's metadata: degrees, GeV, s, cm
};

/// A file made by `xec export`. Made once, called for each event.
class Network {
 public:
  explicit Network(const std::string& path) : env_(ORT_LOGGING_LEVEL_ERROR, "xecml"), session_(open(path)) {
    Ort::AllocatorWithDefaultOptions allocator;
    std::size_t wanted = 0;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      const std::string name = session_.GetInputNameAllocated(i, allocator).get();
      wanted += name == "npho" || name == "time";
    }
    if (session_.GetInputCount() != 2 || wanted != 2) {
      throw std::runtime_error(path + " does not take npho and time; export a regression without --packed.");
    }
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
      std::string name = session_.GetOutputNameAllocated(i, allocator).get();
      if (name != "outlier_numbers") {  // which the software compares files by
        outputs_.push_back(std::move(name));
      }
    }
  }

  /// Answers to an event: counts (photons) and times (s) of all sensors, 1e10 where nothing was measured.
  ///
  /// An event without any count is answered by NaN, and the time of one without any time.
  std::vector<Answer> operator()(std::vector<float>& npho, std::vector<float>& time) {
    if (npho.size() != kSensors || time.size() != kSensors) {
      throw std::runtime_error("An event must have 4760 counts and 4760 times.");
    }
    static constexpr std::array<std::int64_t, 2> shape = {1, kSensors};
    static constexpr std::array<const char*, 2> inputs = {"npho", "time"};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    // these look at the event where it is: nothing is copied
    std::array<Ort::Value, 2> event = {
        Ort::Value::CreateTensor<float>(memory, npho.data(), npho.size(), shape.data(), shape.size()),
        Ort::Value::CreateTensor<float>(memory, time.data(), time.size(), shape.data(), shape.size())};
    std::vector<const char*> names;
    for (const std::string& name : outputs_) {
      names.push_back(name.c_str());
    }
    const std::vector<Ort::Value> found = session_.Run(Ort::RunOptions{nullptr}, inputs.data(), event.data(),
                                                       event.size(), names.data(), names.size());
    std::vector<Answer> answers;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const float* const first = found[i].GetTensorData<float>();
      answers.push_back({outputs_[i], {first, first + found[i].GetTensorTypeAndShapeInfo().GetElementCount()}});
    }
    return answers;
  }

  /// What the file says of itself under a name (`xecml.units`, `xecml.branches`, ...), most of it JSON; else "".
  std::string said(const std::string& name) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto value = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(name.c_str(), allocator);
    return value ? value.get() : "";
  }

 private:
  Ort::Session open(const std::string& path) {
    Ort::SessionOptions options;
    // an event at a time gains nothing from threads, and the event loop may have its own
    options.SetIntraOpNumThreads(1);
    options.SetInterOpNumThreads(1);
    return Ort::Session(env_, path.c_str(), options);
  }

  Ort::Env env_;
  Ort::Session session_;
  std::vector<std::string> outputs_;
};

/// Names of all numbers of an event's answers: angle[0], angle[1], energy, ...
inline std::vector<std::string> columns(const std::vector<Answer>& answers) {
  std::vector<std::string> found;
  for (const Answer& answer : answers) {
    for (std::size_t i = 0; i < answer.values.size(); ++i) {
      found.push_back(answer.values.size() == 1 ? answer.name : answer.name + "[" + std::to_string(i) + "]");
    }
  }
  return found;
}

/// Print the answers to an event as a line, and the names of the columns above the first.
inline void print(const std::string& event, const std::vector<Answer>& answers, bool first) {
  if (first) {
    std::printf("event");
    for (const std::string& name : columns(answers)) {
      std::printf(" %s", name.c_str());
    }
    std::printf("\n");
  }
  std::printf("%s", event.c_str());
  for (const Answer& answer : answers) {
    for (const float value : answer.values) {
      std::printf(" %.9g", static_cast<double>(value));
    }
  }
  std::printf("\n");
}
