// The tables of a bundle, tables.npz: zipped NumPy arrays.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <zlib.h>

#include "errors.hpp"

// An array in C order, converted to double.
struct Array {
    std::vector<size_t> shape;
    std::vector<double> values;
};

// The arrays of an .npz file: a zip archive of .npy files, stored or compressed.
class Npz {
  public:
    explicit Npz(std::string bytes) : data_(std::move(bytes)) {
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
        for (double value : found.values)
            if (!std::isfinite(value)) fail("the table " + array + " holds " + std::to_string(value));
        return found;
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Failure(FSAE_BUNDLE, "tables.npz cannot be used, as " + what, "", again);
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

    std::string data_;
    std::map<std::string, size_t> entries_;
};
