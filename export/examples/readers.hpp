// Readers for the formats of a bundle: JSON (manifest.json) and zipped NumPy arrays (tables.npz).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <zlib.h>

// The bytes of a file.
inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string() + ": is it there?");
    return {std::istreambuf_iterator<char>(file), {}};
}

// A JSON value; the accessors throw if it is of another kind.
struct Json {
    enum class Kind { null, boolean, number, string, array, object };
    Kind kind = Kind::null;
    double value = 0;                // of a number or boolean
    std::string text;                // of a string
    std::vector<std::string> keys;   // of an object, in the order of its items
    std::vector<Json> items;         // of an array or object

    bool is_null() const { return kind == Kind::null; }
    double number() const { return expect(Kind::number, "a number"), value; }
    const std::string& string() const { return expect(Kind::string, "a string"), text; }
    const std::vector<Json>& array() const { return expect(Kind::array, "an array"), items; }
    bool has(const std::string& key) const {
        expect(Kind::object, "an object");
        for (const std::string& known : keys)
            if (known == key) return true;
        return false;
    }
    const Json& operator[](const std::string& key) const {
        expect(Kind::object, "an object");
        for (size_t i = 0; i < keys.size(); ++i)
            if (keys[i] == key) return items[i];
        throw std::runtime_error("manifest.json lacks " + key + ": is the bundle of an older or newer version?");
    }

  private:
    void expect(Kind wanted, const char* name) const {
        if (kind != wanted) throw std::runtime_error(std::string("manifest.json is not as expected: it lacks ") + name);
    }
};

// Reads one JSON text (RFC 8259) with plain UTF-8 strings, without \u escapes, as in manifests.
class JsonReader {
  public:
    explicit JsonReader(const std::string& text) : text_(text) {}

    Json read() {
        Json found = value();
        if (peek() != '\0') fail();
        return found;
    }

  private:
    [[noreturn]] void fail() const {
        throw std::runtime_error("manifest.json is damaged at byte " + std::to_string(at_) + ": get the bundle again");
    }
    char peek() {
        while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) ++at_;
        return at_ < text_.size() ? text_[at_] : '\0';
    }
    bool take(char wanted) { return peek() == wanted ? (++at_, true) : false; }
    bool take_word(const char* word) {
        const bool here = text_.compare(at_, std::strlen(word), word) == 0;
        return here ? (at_ += std::strlen(word), true) : false;
    }
    std::string string() {
        if (!take('"')) fail();
        std::string found;
        while (at_ < text_.size() && text_[at_] != '"') {
            char c = text_[at_++];
            if (c == '\\') {
                static const std::string escaped = "\"\\/bfnrt", plain = "\"\\/\b\f\n\r\t";
                const size_t which = at_ < text_.size() ? escaped.find(text_[at_++]) : std::string::npos;
                if (which == std::string::npos) fail();
                c = plain[which];
            }
            found += c;
        }
        if (at_++ >= text_.size()) fail();
        return found;
    }
    Json value() {
        Json found;
        const char first = peek();
        if (first == '"') {
            found.kind = Json::Kind::string;
            found.text = string();
        } else if (first == '{' || first == '[') {
            const bool object = first == '{';
            const char last = object ? '}' : ']';
            found.kind = object ? Json::Kind::object : Json::Kind::array;
            ++at_;
            if (take(last)) return found;
            do {
                if (object) {
                    found.keys.push_back(string());
                    if (!take(':')) fail();
                }
                found.items.push_back(value());
            } while (take(','));
            if (!take(last)) fail();
        } else if (take_word("true") || take_word("false")) {
            found.kind = Json::Kind::boolean;
            found.value = text_[at_ - 2] == 'u';  // tr-u-e
        } else if (!take_word("null")) {
            char* end = nullptr;
            found.kind = Json::Kind::number;
            found.value = std::strtod(text_.c_str() + at_, &end);
            if (end == text_.c_str() + at_) fail();
            at_ = static_cast<size_t>(end - text_.c_str());
        }
        return found;
    }

    const std::string& text_;
    size_t at_ = 0;
};

// An array in C order, converted to double.
struct Array {
    std::vector<size_t> shape;
    std::vector<double> values;
};

// The arrays of an .npz file: a zip archive of .npy files, stored or compressed.
class Npz {
  public:
    explicit Npz(const std::filesystem::path& path) : name_(path.string()), data_(read_file(path)) {
        size_t end = data_.rfind("PK\5\6");  // the end of the central directory, which lists every entry
        if (end == std::string::npos || end + 22 > data_.size()) fail("it is not a zip archive");
        size_t at = number<uint32_t>(end + 16);
        for (int left = number<uint16_t>(end + 10); left > 0; --left) {
            const uint16_t name = number<uint16_t>(at + 28);
            entries_[text(at + 46, name)] = at;
            at += 46u + name + number<uint16_t>(at + 30) + number<uint16_t>(at + 32);
        }
    }

    bool has(const std::string& array) const { return entries_.count(array + ".npy") > 0; }

    // The array of a name and shape; a 0 in the shape stands for any size.
    Array read(const std::string& array, const std::vector<size_t>& shape) const {
        if (!has(array)) fail("it lacks the table " + array);
        const std::string npy = unpack(entries_.at(array + ".npy"));
        if (npy.size() < 12 || npy.compare(0, 6, "\x93NUMPY") != 0) fail(array + " is not a NumPy array");
        const bool first_version = npy[6] == 1;  // two bytes for the length of the header, in later versions four
        const size_t start = first_version ? 10 : 12;
        uint32_t length = 0;
        std::memcpy(&length, npy.data() + 8, start - 8);
        const std::string header = npy.substr(start, length);
        Array found;
        size_t count = 1;
        const size_t open = header.find('('), close = header.find(')');
        for (size_t at = open + 1; at < close;) {
            char* end = nullptr;
            const size_t size = std::strtoull(header.c_str() + at, &end, 10);
            if (end == header.c_str() + at) break;  // after the comma in a shape such as (3,)
            found.shape.push_back(size);
            count *= size;
            at = static_cast<size_t>(end - header.c_str()) + 2;
        }
        bool fits = found.shape.size() == shape.size() && header.find("'fortran_order': False") != std::string::npos;
        for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == 0 || shape[i] == found.shape[i];
        if (!fits) fail("the table " + array + " has another shape than the manifest says");
        const bool wide = header.find("'<f8'") != std::string::npos;
        if (!wide && header.find("'<f4'") == std::string::npos) fail("the table " + array + " does not hold floats");
        if (npy.size() != start + length + count * (wide ? 8 : 4)) fail("the table " + array + " is truncated");
        const char* from = npy.data() + start + length;
        found.values.resize(count);
        for (size_t i = 0; i < count; ++i)
            found.values[i] = wide ? load<double>(from + 8 * i) : load<float>(from + 4 * i);
        return found;
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error(name_ + " cannot be used: " + what + "; get the bundle again");
    }
    template <class T> static T load(const char* from) {
        T value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
    template <class T> T number(size_t at) const {
        if (at + sizeof(T) > data_.size()) fail("it is truncated");
        return load<T>(data_.data() + at);
    }
    std::string text(size_t at, size_t size) const {
        if (at + size > data_.size()) fail("it is truncated");
        return data_.substr(at, size);
    }
    // The bytes of the entry described at `at` in the central directory.
    std::string unpack(size_t at) const {
        const uint16_t method = number<uint16_t>(at + 10);
        const uint32_t packed = number<uint32_t>(at + 20), size = number<uint32_t>(at + 24);
        const uint32_t header = number<uint32_t>(at + 42);
        const size_t start = header + 30u + number<uint16_t>(header + 26) + number<uint16_t>(header + 28);
        std::string input = text(start, packed), output = input;
        if (method == 8) {
            output.assign(size, '\0');
            z_stream stream{};
            stream.next_in = reinterpret_cast<Bytef*>(input.data());
            stream.avail_in = packed;
            stream.next_out = reinterpret_cast<Bytef*>(output.data());
            stream.avail_out = size;
            inflateInit2(&stream, -MAX_WBITS);  // zip stores the raw stream, without zlib's header
            const int status = inflate(&stream, Z_FINISH);
            inflateEnd(&stream);
            if (status != Z_STREAM_END) fail("an entry is damaged");
        } else if (method != 0) {
            fail("an entry has a compression other than deflate");
        }
        const auto* bytes = reinterpret_cast<const Bytef*>(output.data());
        if (output.size() != size || crc32(0, bytes, size) != number<uint32_t>(at + 16)) fail("an entry is damaged");
        return output;
    }

    std::string name_, data_;
    std::map<std::string, size_t> entries_;
};
