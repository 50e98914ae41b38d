// A bundle as a host program sees it: the manifest, and the graphs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "readers.hpp"
#include "sampler.hpp"

constexpr int schema_version = 2;  // the newest this program reads

// Pixels of a HEALPix grid.
inline size_t pixels(int zoom) { return size_t{12} << (2 * zoom); }

struct Bundle {
    std::filesystem::path folder;
    Json manifest;
    size_t variables;
    int zoom, latent_zoom;
    std::vector<int> zooms;         // of the pyramid, ascending
    std::vector<int> latent_zooms;  // up to the latent's zoom

    explicit Bundle(const std::filesystem::path& path) : folder(path) {
        const std::string text = read_file(path / "manifest.json");
        manifest = JsonReader(text).read();
        if (manifest["schema_version"].number() > schema_version)
            throw std::runtime_error("the manifest has a newer schema version than 2: build a newer program");
        variables = manifest["variables"].array().size();
        zoom = whole("grid", "zoom");
        latent_zoom = whole("latent", "zoom");
        for (const Json& level : manifest["zooms"].array()) {
            zooms.push_back(static_cast<int>(level.number()));
            if (zooms.back() <= latent_zoom) latent_zooms.push_back(zooms.back());
        }
    }

    // An integer in an object of the manifest.
    int whole(const std::string& object, const std::string& key) const {
        return static_cast<int>(manifest[object][key].number());
    }
    size_t field_size() const { return variables * pixels(zoom); }
    size_t latent_size() const { return variables * pixels(latent_zoom); }
};

// Dense maps, which are stored as bytes, become numbers when a graph is opened and not in each call.
inline Ort::SessionOptions session_options() {
    Ort::SessionOptions options;
    options.AddConfigEntry("session.disable_quant_qdq", "1");
    return options;
}

// One ONNX graph of a bundle: float32 in and out, with the batch as first and only free axis.
class Graph {
  public:
    Graph(Ort::Env& env, const Bundle& bundle, const std::string& name)
        : session_(env, (bundle.folder / (name + ".fp32.onnx")).c_str(), session_options()) {}

    // The output for `rows` rows of every input. A single row is run twice, as a batch of one uses other kernels: this
    // way its result has the same bits as in any larger batch.
    Floats run(size_t rows, const std::map<std::string, Floats>& inputs) {
        const size_t batch = rows < 2 ? 2 : rows;
        Ort::AllocatorWithDefaultOptions allocator;
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const size_t count = session_.GetInputCount();
        std::vector<std::string> names(count);
        std::vector<const char*> asked(count);
        std::vector<Floats> data(count);
        std::vector<Ort::Value> values;
        for (size_t i = 0; i < count; ++i) {
            names[i] = session_.GetInputNameAllocated(i, allocator).get();
            asked[i] = names[i].c_str();
            const auto given = inputs.find(names[i]);
            if (given == inputs.end()) throw std::runtime_error("a graph asks for the unknown input " + names[i]);
            data[i] = given->second;
            if (rows < batch) data[i].insert(data[i].end(), given->second.begin(), given->second.end());
            std::vector<int64_t> shape = session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
            shape.at(0) = static_cast<int64_t>(batch);
            int64_t size = 1;
            for (int64_t length : shape) size *= length;
            if (data[i].size() != static_cast<size_t>(size)) throw std::runtime_error("wrong size of " + names[i]);
            values.push_back(Ort::Value::CreateTensor<float>(memory, data[i].data(), data[i].size(), shape.data(),
                                                             shape.size()));
        }
        const auto output = session_.GetOutputNameAllocated(0, allocator);
        const char* wanted = output.get();
        const auto found = session_.Run(Ort::RunOptions{nullptr}, asked.data(), values.data(), count, &wanted, 1);
        const size_t size = found[0].GetTensorTypeAndShapeInfo().GetElementCount() / batch * rows;
        const float* result = found[0].GetTensorData<float>();
        return {result, result + size};
    }

  private:
    Ort::Session session_;
};
