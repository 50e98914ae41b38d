// What can go wrong, with the status that a caller gets: see fsae.h.
#pragma once

#include <stdexcept>
#include <string>

#include "fsae.h"

// A failure a user can act on: what was found, what was expected and what to do, in one sentence.
class Failure : public std::runtime_error {
  public:
    Failure(int status, const std::string& found, const std::string& expected = "", const std::string& advice = "")
        : std::runtime_error(found + (expected.empty() ? "" : ", expected " + expected) +
                             (advice.empty() ? "" : ": " + advice)),
          status(status) {}

    const int status;
};

constexpr const char* again = "get the bundle again";
