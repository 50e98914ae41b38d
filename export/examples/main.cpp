// Compress, decompress and generate fields with a bundle of fsae and ONNX Runtime, without Python.
//
// Fields and latents are raw files of little-endian float32 numbers in C order: a field is (variable, pixel) in the
// units of the manifest, 12 * 4^zoom pixels in HEALPix's nested order; a generated window is (time, variable, pixel).

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "generate.hpp"

namespace {

constexpr const char* usage =
    "usage: fsae_example BUNDLE compress FIELD LATENT PHASE\n"
    "       fsae_example BUNDLE decompress LATENT FIELD PHASE\n"
    "       fsae_example BUNDLE generate FIELDS MEMBER SEED YYYY-MM\n"
    "FIELD, LATENT and FIELDS are raw float32 files, PHASE the fraction of the year passed (0.04 in mid-January).\n";

Floats read_floats(const std::string& path, size_t count) {
    const std::string data = read_file(path);
    if (data.size() != count * sizeof(float))
        throw std::runtime_error(path + " holds " + std::to_string(data.size()) + " bytes, expected " +
                                 std::to_string(count * sizeof(float)) + ": is it of this bundle's grid?");
    Floats numbers(count);
    std::memcpy(numbers.data(), data.data(), data.size());
    return numbers;
}

void write_floats(const std::string& path, const Floats& numbers) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(4 * numbers.size()));
    if (!file.flush()) throw std::runtime_error("cannot write " + path + ": is there space, and is the folder yours?");
}

// From 1.29 on ONNX Runtime writes a device id and looks up its telemetry host unless this is set before the first Env.
void switch_telemetry_off() {
#ifdef _WIN32
    _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
#endif
}

// The number that a whole text is, by std::stoull or std::stod.
template <class Number> Number parse(const std::string& text, Number (*convert)(const std::string&, size_t*)) {
    size_t end = 0;
    Number number{};
    try {
        number = convert(text, &end);
    } catch (const std::exception&) {
        end = std::string::npos;
    }
    if (end != text.size() || text[0] == '-') throw std::runtime_error("found '" + text + "', expected 0 or more");
    return number;
}

uint64_t whole(const std::string& text) {
    return parse<unsigned long long>(text, [](const std::string& from, size_t* end) { return std::stoull(from, end); });
}

double phase_of(const std::string& text) {
    const double phase = parse<double>(text, [](const std::string& from, size_t* end) { return std::stod(from, end); });
    if (!(phase >= 0 && phase <= 1)) throw std::runtime_error("found the phase " + text + ", expected 0 to 1");
    return phase;
}

void run(const std::vector<std::string>& words) {
    const Bundle bundle(words[0]);
    const int harmonics = bundle.whole("time", "harmonics");
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "fsae_example");
    if (words[1] == "compress") {
        Graph encoder(env, bundle, "encoder");
        const Floats field = read_floats(words[2], bundle.field_size());
        const Floats waves = season(phase_of(words[4]), harmonics), every_level(bundle.zooms.size(), 1.0f);
        write_floats(words[3], encoder.run(1, {{"field", field}, {"season", waves}, {"level_mask", every_level}}));
    } else if (words[1] == "decompress") {
        Graph decoder(env, bundle, "decoder");
        const Floats latent = read_floats(words[2], bundle.latent_size());
        const Floats waves = season(phase_of(words[4]), harmonics);
        write_floats(words[3], decoder.run(1, {{"latent", latent}, {"season", waves}}));
    } else {
        int year = 0, month = 0, end = 0;
        const bool date = std::sscanf(words[5].c_str(), "%4d-%2d%n", &year, &month, &end) == 2;
        if (!date || words[5].size() != static_cast<size_t>(end) || month < 1 || month > 12)
            throw std::runtime_error("found the start " + words[5] + ", expected a month such as 2005-01");
        write_floats(words[2], first_window(env, bundle, whole(words[4]), whole(words[3]), year, month));
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<std::string> words(arguments + 1, arguments + count);
    const size_t needed = words.size() > 1 && words[1] == "generate" ? 6 : 5;
    if (words.size() != needed || (words[1] != "compress" && words[1] != "decompress" && words[1] != "generate")) {
        std::cerr << usage;
        return 2;
    }
    switch_telemetry_off();
    try {
        run(words);
    } catch (const std::exception& error) {
        std::cerr << "fsae_example: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
