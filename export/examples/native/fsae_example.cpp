// Compress, decompress and generate fields with a bundle of fsae, without Python, by the functions of fsae.h.
//
// Fields and latents are raw files of little-endian float32 numbers in C order: a field is (variable, pixel) in the
// units of the manifest, 12 * 4^zoom pixels in HEALPix's nested order; generated ones are (step, variable, pixel).

#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fsae.h"

namespace {

constexpr const char* usage =
    "usage: fsae_example BUNDLE describe\n"
    "       fsae_example BUNDLE compress FIELD LATENT DATE\n"
    "       fsae_example BUNDLE decompress LATENT FIELD DATE\n"
    "       fsae_example BUNDLE generate FIELDS MEMBER SEED START STEPS\n"
    "FIELD, LATENT and FIELDS are raw float32 files; DATE and START are such as 2005-01.\n";

// An error of this program or of the library, with the exit code.
struct Failure {
    int status;
    std::string sentence;
};

void expect_ok(int status) {
    if (status != FSAE_OK) throw Failure{status, fsae_error()};
}

std::vector<float> read_floats(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string data(std::istreambuf_iterator<char>(file), {});
    if (!file) throw Failure{FSAE_DATA, "cannot read " + path + ": is it there?"};
    std::vector<float> numbers((data.size() + 3) / 4);  // a torn last number is one too many
    std::memcpy(numbers.data(), data.data(), data.size());
    return numbers;
}

void write_floats(const std::string& path, const std::vector<float>& numbers) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(4 * numbers.size()));
    if (!file.flush()) throw Failure{7, "cannot write " + path + ": is there space, and is the folder yours?"};
}

// A number from 0 on that a whole text is.
template <class Number> Number whole(const std::string& text) {
    size_t end = 0;
    Number number = 0;
    try {
        number = static_cast<Number>(std::stoull(text, &end));
    } catch (const std::exception&) {
        end = std::string::npos;
    }
    if (end != text.size() || text[0] == '-') throw Failure{FSAE_USAGE, "found '" + text + "', expected 0 or more"};
    return number;
}

void describe(const fsae_model* model, const fsae_description& facts) {
    std::cout << facts.name << ", " << facts.precision << ": zoom " << facts.zoom << ", latents at zoom "
              << facts.latent_zoom << ", steps of " << facts.step << " (" << facts.calendar << ")\n";
    for (int64_t place = 0; place < facts.variables; ++place) {
        fsae_variable variable;
        expect_ok(fsae_describe_variable(model, place, &variable));
        std::cout << variable.name << " [" << variable.units << "] " << variable.standard_name << ", "
                  << variable.cell_methods << "\n";
    }
}

void run(const std::vector<std::string>& words) {
    fsae_model* opened = nullptr;
    expect_ok(fsae_open(words[0].c_str(), nullptr, 0, &opened));
    const std::unique_ptr<fsae_model, void (*)(fsae_model*)> model(opened, fsae_close);
    fsae_description facts;
    expect_ok(fsae_describe(opened, &facts));
    const auto variables = static_cast<size_t>(facts.variables);
    const size_t field = variables * static_cast<size_t>(facts.pixels);
    std::vector<float> latents(variables * static_cast<size_t>(facts.latent_pixels)), fields(field);
    if (words[1] == "describe") return describe(opened, facts);
    if (words[1] == "generate") {
        fsae_request request{};
        request.member = whole<int64_t>(words[3]);
        request.seed = whole<uint64_t>(words[4]);
        request.start = words[5].c_str();
        request.steps = whole<int64_t>(words[6]);
        if (request.steps > 100000) throw Failure{FSAE_USAGE, "found " + words[6] + " steps, expected 100000 at most"};
        fields.resize(static_cast<size_t>(request.steps) * field);
        expect_ok(fsae_draw(opened, &request, fields.data(), fields.size()));
        return write_floats(words[2], fields);
    }
    double phase = 0;
    expect_ok(fsae_phase(opened, words[4].c_str(), &phase));
    const std::vector<float> given = read_floats(words[2]);
    if (words[1] == "compress") {
        expect_ok(fsae_encode(opened, 1, &phase, given.data(), given.size(), latents.data(), latents.size()));
        write_floats(words[3], latents);
    } else {
        expect_ok(fsae_decode(opened, 1, &phase, given.data(), given.size(), fields.data(), fields.size()));
        write_floats(words[3], fields);
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<std::string> words(arguments + 1, arguments + count);
    const std::string verb = words.size() > 1 ? words[1] : "";
    const size_t needed = verb == "describe" ? 2 : verb == "compress" || verb == "decompress" ? 5 : 7;
    if (words.size() != needed || (needed == 7 && verb != "generate")) {
        std::cerr << usage;
        return FSAE_USAGE;
    }
    try {
        run(words);
    } catch (const Failure& failure) {
        std::cerr << "fsae_example: " << failure.sentence << "\n";
        return failure.status;
    } catch (const std::exception& error) {
        std::cerr << "fsae_example: " << error.what() << "\n";
        return FSAE_FAILED;
    }
    return 0;
}
