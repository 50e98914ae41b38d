// A bundle as a host program sees it: facts of the manifest, and files whose hash is checked when they are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <openssl/evp.h>

#include "errors.hpp"

using Json = nlohmann::json;

constexpr int schema_version = 2;  // the newest this library reads

// Pixels of a HEALPix grid.
inline size_t pixels(int zoom) { return size_t{12} << (2 * zoom); }

// The bytes of a file.
inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(file), {});
    if (!file) throw Failure(FSAE_BUNDLE, "cannot read " + path.string(), "", "is it there, and may you read it?");
    return bytes;
}

// SHA-256 in hexadecimal digits.
inline std::string sha256(const std::string& bytes) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (!EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr))
        throw Failure(FSAE_FAILED, "OpenSSL has no SHA-256 here");
    const char* const digits = "0123456789abcdef";
    std::string text;
    for (unsigned int i = 0; i < size; ++i) text += {digits[digest[i] >> 4], digits[digest[i] & 15]};
    return text;
}

struct Variable {
    std::string name, standard_name, units, cell_methods;
    double low, high;  // of the valid range
};

struct Sampler {
    std::string name;
    int steps;
    double sigma_min, sigma_max, rho;
};

struct Forcing {
    std::string name, units;
    double low = 0, high = 0;  // of the training data
    size_t scenarios = 0;      // in tables.npz; without any the forcing is the calendar year
    double response_years = 0;
};

struct Bundle {
    std::filesystem::path folder;
    std::string name, precision, step, calendar;
    std::vector<Variable> variables;
    int zoom, latent_zoom, harmonics;
    std::vector<int> zooms;         // of the pyramid, ascending
    std::vector<int> latent_zooms;  // up to the latent's zoom
    int window = 0, previous = 0, noise_features = 0;  // 0 if it does not generate
    bool low_resolution = false;                       // the only label of its training data
    Forcing forcing;
    std::vector<Sampler> samplers;  // none; the usual one; or that and the one of the distilled denoiser

    Bundle(const std::filesystem::path& path, const std::string& wanted) : folder(path), precision(wanted) {
        const std::string text = read_file(path / "manifest.json");
        try {
            read_manifest(Json::parse(text));
        } catch (const Json::parse_error& error) {
            throw Failure(FSAE_BUNDLE, "manifest.json is damaged at byte " + std::to_string(error.byte), "", again);
        } catch (const Json::exception& error) {
            bad(error.what());
        }
        for (const std::string& file : {std::string("tables.npz"), graph_file("encoder"), graph_file("decoder")})
            check_size(file);
    }

    size_t field_size() const { return variables.size() * pixels(zoom); }
    size_t latent_size() const { return variables.size() * pixels(latent_zoom); }
    std::string graph_file(const std::string& graph) const { return graph + "." + precision + ".onnx"; }

    // Content of a file of the manifest, of the size and hash that stand there.
    std::string read(const std::string& file) const {
        check_size(file);
        std::string bytes = read_file(folder / file);
        if (sha256(bytes) != files_.at(file).sha256)
            throw Failure(FSAE_BUNDLE,
                          (folder / file).string() + " is altered: its SHA-256 differs from the manifest's", "", again);
        return bytes;
    }

  private:
    struct Entry {
        std::string sha256;
        uint64_t size;
    };
    std::map<std::string, Entry> files_;

    [[noreturn]] static void bad(const std::string& what) {
        throw Failure(FSAE_BUNDLE, "manifest.json is not as it should be (" + what + ")", "", again);
    }

    static int whole(const Json& object, const char* key, int low, int high) {
        const Json& value = object.at(key);
        if (!value.is_number_integer() || value < low || value > high)
            bad(std::string(key) + " is " + value.dump() + ", expected a whole number from " + std::to_string(low) +
                " to " + std::to_string(high));
        return value;
    }

    static std::string one_of(const Json& object, const char* key, const std::set<std::string>& known) {
        const std::string& value = object.at(key).get_ref<const std::string&>();
        if (!known.count(value)) bad(std::string(key) + " is '" + value + "', which libfsae does not know");
        return value;
    }

    void check_size(const std::string& file) const {
        const auto entry = files_.find(file);
        if (entry == files_.end())
            throw Failure(FSAE_BUNDLE, "bundle " + name + " has no file " + file, "",
                          "take another precision or bundle");
        std::error_code problem;
        const uint64_t size = std::filesystem::file_size(folder / file, problem);
        if (problem)
            throw Failure(FSAE_BUNDLE, "cannot read " + (folder / file).string() + ": " + problem.message(), "", again);
        if (size != entry->second.size)
            throw Failure(FSAE_BUNDLE, (folder / file).string() + " is truncated or altered: found " +
                          std::to_string(size) + " bytes", std::to_string(entry->second.size), again);
    }

    void read_manifest(const Json& all) {
        const int version = whole(all, "schema_version", 1, 1 << 30);
        if (version > schema_version)
            throw Failure(FSAE_BUNDLE, "the manifest has schema version " + std::to_string(version),
                          "versions up to " + std::to_string(schema_version), "build a newer libfsae");
        name = all.at("name");
        for (const auto& [file, entry] : all.at("files").items())
            files_[file] = {entry.at("sha256"), entry.at("size").get<uint64_t>()};
        zoom = whole(all.at("grid"), "zoom", 0, 12);
        latent_zoom = whole(all.at("latent"), "zoom", 0, 12);
        for (const Json& level : all.at("zooms")) {
            if (!level.is_number_unsigned() || level > zoom || (!zooms.empty() && level <= zooms.back()))
                bad("zooms do not rise to that of the grid");
            zooms.push_back(level);
            if (zooms.back() <= latent_zoom) latent_zooms.push_back(zooms.back());
        }
        if (latent_zooms.empty() || latent_zooms.back() != latent_zoom || zooms.back() != zoom)
            bad("zooms lack that of the latents or of the grid");
        for (const Json& one : all.at("variables"))
            variables.push_back({one.at("name"), one.at("standard_name"), one.at("units"), one.at("cell_methods"),
                                 one.at("valid_range").at(0), one.at("valid_range").at(1)});
        if (variables.empty()) bad("it has no variables");
        const Json& time = all.at("time");
        step = time.at("step");
        calendar = one_of(time, "calendar", {"standard", "gregorian", "proleptic_gregorian", "julian", "noleap",
                                             "365_day", "all_leap", "366_day", "360_day"});
        harmonics = whole(time, "harmonics", 1, 183);
        if (!all.at("denoiser").is_null()) read_denoiser(all);
    }

    void read_denoiser(const Json& all) {
        const Json& known = all.at("denoiser");
        window = whole(known, "window", 1, 10000), previous = whole(known, "previous", 0, 10000);
        noise_features = whole(known, "noise_features", 2, 10000);
        const Json& given = known.at("forcing");
        forcing = {given.at("name"), given.at("units"), given.at("range").at(0), given.at("range").at(1)};
        forcing.scenarios = given.value("scenarios", Json::array()).size();
        forcing.response_years = given.value("response_years", 0.0);
        const Json& sources = known.at("sources");
        low_resolution = std::find(sources.begin(), sources.end(), "hr") == sources.end();
        const Json fast = all.value("fast", Json());
        for (const Json& one : {all.at("sampler"), fast})
            if (samplers.empty() || !one.is_null())
                samplers.push_back({one_of(one, "name", {"dpm2m", "euler", "heun"}), whole(one, "steps", 1, 10000),
                                    one.at("sigma_min"), one.at("sigma_max"), one.at("rho")});
    }
};
