// The graphs of a bundle as functions of arrays, by ONNX Runtime on the CPU.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <onnxruntime_cxx_api.h>

#include "bundle.hpp"

// An input or output of a graph, and how many numbers of it belong to one row of a batch.
struct Port {
    std::string name;
    size_t row;
};

// The environment of ONNX Runtime. There is one in a process, which must not be made again once it has been destroyed.
inline Ort::Env& environment() {
    static Ort::Env* const one = [] {
        // From 1.29 on it writes a device id and looks up its telemetry host unless this is set before.
#ifdef _WIN32
        _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
        setenv("ORT_DISABLE_TELEMETRY", "1", 1);
#endif
        return new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "fsae");  // fatal only: errors are raised
    }();
    return *one;
}

// "onnxruntime 1.22.0"; Failure if it is older than the headers this was compiled with.
inline std::string backend() {
    const std::string version = OrtGetApiBase()->GetVersionString();
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr)
        throw Failure(FSAE_DEVICE, "found onnxruntime " + version, "1." + std::to_string(ORT_API_VERSION) + " or later",
                      "update it, or build libfsae with its headers");
    return "onnxruntime " + version;
}

// One ONNX graph: float32 in and out, with the batch as first and only free axis. Threads may run it at the same time.
class Graph {
  public:
    Graph(const Bundle& bundle, const std::string& graph, std::vector<Port> inputs, Port output, int threads)
        : name_(graph), inputs_(std::move(inputs)), output_(std::move(output)), session_(open(bundle, graph, threads)) {
        // More rows at once leave the caches; a single row would use other kernels and have other bits.
        most_ = std::max(8 * pixels(5) / pixels(bundle.zoom), size_t{1});
        fewest_ = std::min(most_, size_t{2});
        const bool fits = session_.GetInputCount() == inputs_.size() && session_.GetOutputCount() == 1;
        for (size_t i = 0; fits && i < inputs_.size(); ++i) shapes_.push_back(shape_of(inputs_[i]));
        if (!fits || size_of(session_.GetOutputTypeInfo(0)) != output_.row)
            throw Failure(FSAE_BUNDLE, name_ + " has other inputs and outputs than a bundle of this schema", "", again);
    }

    // Write the output of `rows` rows of every input, given in the order of the ports.
    void run(size_t rows, const std::vector<const float*>& inputs, float* output) {
        const size_t parts = (rows + most_ - 1) / most_;
        for (size_t part = 0, first = 0; part < parts; ++part) {
            const size_t count = rows / parts + (part < rows % parts);
            std::vector<const float*> from;
            for (size_t i = 0; i < inputs.size(); ++i) from.push_back(inputs[i] + first * inputs_[i].row);
            if (count >= fewest_) run_batch(count, from, output + first * output_.row);
            else run_twice(from, output + first * output_.row);
            first += count;
        }
    }

  private:
    std::string name_;
    std::vector<Port> inputs_;
    Port output_;
    Ort::Session session_;
    size_t most_, fewest_;                       // rows in a batch
    std::vector<std::vector<int64_t>> shapes_;  // of the inputs

    static Ort::Session open(const Bundle& bundle, const std::string& graph, int threads) {
        const std::string file = bundle.graph_file(graph), data = bundle.read(file), runtime = backend();
        if (data.find("location") != std::string::npos)  // the key of every weight that is not in the file
            throw Failure(FSAE_BUNDLE, file + " may keep its weights in another file, which libfsae does not read", "",
                          "take a bundle of a coarser grid, or fsae-run");
        Ort::Env& env = environment();
        try {
            Ort::SessionOptions options;
            options.SetIntraOpNumThreads(threads);
            options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // cores belong to the host between calls
            options.AddConfigEntry("session.load_model_format", "ONNX");
            // Dense maps, which are stored as bytes, become numbers when a graph is opened and not in each call.
            options.AddConfigEntry("session.disable_quant_qdq", bundle.precision == "int8" ? "0" : "1");
            return Ort::Session(env, data.data(), data.size(), options);
        } catch (const Ort::Exception& error) {
            throw Failure(FSAE_BUNDLE, runtime + " cannot load " + file + " (" + error.what() + ")", "",
                          "update onnxruntime");
        }
    }

    static size_t size_of(const Ort::TypeInfo& info) {
        const auto tensor = info.GetTensorTypeAndShapeInfo();
        const std::vector<int64_t> shape = tensor.GetShape();
        if (tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || shape.empty()) return 0;
        size_t size = 1;
        for (size_t axis = 1; axis < shape.size(); ++axis)
            size *= static_cast<size_t>(std::max(shape[axis], int64_t{0}));
        return size;
    }

    // The shape of an input, whose place in the graph is found by its name.
    std::vector<int64_t> shape_of(const Port& port) {
        Ort::AllocatorWithDefaultOptions allocator;
        for (size_t i = 0; i < session_.GetInputCount(); ++i) {
            if (session_.GetInputNameAllocated(i, allocator).get() != port.name) continue;
            const Ort::TypeInfo info = session_.GetInputTypeInfo(i);
            if (size_of(info) == port.row) return info.GetTensorTypeAndShapeInfo().GetShape();
        }
        throw Failure(FSAE_BUNDLE, name_ + " lacks the input " + port.name + " of " + std::to_string(port.row) +
                                       " numbers a row", "", again);
    }

    void run_twice(const std::vector<const float*>& inputs, float* output) {
        std::vector<std::vector<float>> twice(inputs.size());
        std::vector<const float*> from;
        for (size_t i = 0; i < inputs.size(); ++i) {
            for (int copy = 0; copy < 2; ++copy)
                twice[i].insert(twice[i].end(), inputs[i], inputs[i] + inputs_[i].row);
            from.push_back(twice[i].data());
        }
        std::vector<float> both(2 * output_.row);
        run_batch(2, from, both.data());
        std::copy_n(both.begin(), output_.row, output);
    }

    void run_batch(size_t batch, const std::vector<const float*>& inputs, float* output) {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto tensor = [&](float* data, size_t row, std::vector<int64_t> shape) {
            shape[0] = static_cast<int64_t>(batch);
            return Ort::Value::CreateTensor<float>(memory, data, batch * row, shape.data(), shape.size());
        };
        std::vector<const char*> names;
        std::vector<Ort::Value> values;
        for (size_t i = 0; i < inputs.size(); ++i) {
            names.push_back(inputs_[i].name.c_str());
            values.push_back(tensor(const_cast<float*>(inputs[i]), inputs_[i].row, shapes_[i]));  // it only reads them
        }
        const char* wanted = output_.name.c_str();
        const std::vector<int64_t> shape = session_.GetOutputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
        Ort::Value result = tensor(output, output_.row, shape);
        try {
            session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &wanted, &result, 1);
        } catch (const Ort::Exception& error) {
            throw Failure(FSAE_DEVICE, name_ + " failed on the CPU: " + error.what(), "", "check its free memory");
        }
    }
};
