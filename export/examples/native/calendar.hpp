// Time steps in a CF calendar: the numbers that a model takes for them, as in fsae.runtime.climate.calendar.
#pragma once

#include <cstdint>
#include <regex>
#include <string>
#include <vector>

#include "errors.hpp"

struct TimeStep {
    double phase;         // the fraction of the year passed at its middle, or at its stamp if values are instantaneous
    double decimal_year;  // calendar year and phase
    int64_t index;        // of the step, wherever a series begins: names the noise
};

class TimeAxis {
  public:
    TimeAxis(const std::string& calendar, const std::string& step, const std::string& cell_methods)
        : calendar_(calendar) {
        std::smatch found;
        if (!std::regex_match(step, found, std::regex("([1-9][0-9]{0,5}) (minute|hour|day|month|year)s?")))
            throw Failure(FSAE_BUNDLE, "found the time step '" + step + "'", "such as '1 month' or '6 hours'", again);
        count_ = std::stoll(found[1]), unit_ = found[2];
        months_ = count_ * (unit_ == "month" ? 1 : unit_ == "year" ? 12 : 0);
        seconds_ = count_ * (unit_ == "day" ? day : unit_ == "hour" ? 3600 : unit_ == "minute" ? 60 : 0);
        const std::regex method("\\btime:\\s*(?:\\w+:\\s*)*(\\w+)");
        const bool named = std::regex_search(cell_methods, found, method);
        averaged_ = (months_ > 0 || (step == "1 day" && named)) && !(named && found[1] == "point");
    }

    // `count` steps, of which the one that holds a date is at the place `before`.
    std::vector<TimeStep> steps(const std::string& date, size_t count, int64_t before = 0) const {
        const Date first = read_date(date);
        const int64_t month = 12 * first.year + (unit_ == "year" ? 0 : first.month - 1);
        if (months_ ? month - before * months_ < 12 : floor(first) < before * seconds_)
            throw Failure(FSAE_DATA, "found the date '" + date + "'",
                          "one with all known steps in the year 1 or later");
        std::vector<TimeStep> found;
        for (int64_t i = -before; i < static_cast<int64_t>(count) - before; ++i)
            found.push_back(months_ ? of_months(month + i * months_) : of_seconds(floor(first) + i * seconds_));
        return found;
    }

  private:
    static constexpr int64_t day = 86400;  // [s]
    std::string calendar_, unit_;
    int64_t count_, months_, seconds_;  // the length in months, or else in seconds
    bool averaged_;                     // over a calendar day, months or years, so that the phase is that of the middle

    struct Date {
        int64_t year, month, day, second;  // month and day from 1, second of the day
    };

    bool leap(int64_t year) const {
        if (calendar_ == "noleap" || calendar_ == "365_day") return false;
        if (calendar_ == "all_leap" || calendar_ == "366_day") return true;
        return year % 4 == 0 && (calendar_ == "julian" || year % 100 != 0 || year % 400 == 0);
    }

    int64_t month_days(int64_t year, int64_t month) const {
        if (calendar_ == "360_day") return 30;
        if (month == 2) return leap(year) ? 29 : 28;
        return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
    }

    // Days from the beginning of the year 1 to that of another one.
    int64_t days_before(int64_t year) const {
        const int64_t past = year - 1;
        if (calendar_ == "360_day") return 360 * past;
        if (calendar_ == "noleap" || calendar_ == "365_day") return 365 * past;
        if (calendar_ == "all_leap" || calendar_ == "366_day") return 366 * past;
        if (calendar_ == "julian") return 365 * past + past / 4;
        const int64_t mixed = calendar_ == "proleptic_gregorian" ? 0 : 2;  // which began in the Julian calendar
        return 365 * past + past / 4 - past / 100 + past / 400 + mixed;
    }

    // Seconds from the beginning of the year 1 to that of a month, which is counted from the year 0.
    int64_t at_month(int64_t month) const {
        const int64_t year = month / 12;
        int64_t days = days_before(year);
        for (int64_t i = 1; i <= month % 12; ++i) days += month_days(year, i);
        return days * day;
    }

    TimeStep of(int64_t second, int64_t index) const {
        int64_t year = 1;
        while (const int64_t whole = (second - days_before(year) * day) / (366 * day)) year += whole;
        if (days_before(year + 1) * day <= second) ++year;
        const int64_t start = days_before(year) * day, length = days_before(year + 1) * day - start;
        const double phase = static_cast<double>(second - start) / static_cast<double>(length);
        return {phase, static_cast<double>(year) + phase, index};
    }

    TimeStep of_months(int64_t month) const {
        const int64_t start = at_month(month), end = at_month(month + months_);
        return of(averaged_ ? start + (end - start) / 2 : start, unit_ == "month" ? month : (month / 12 - 1) / count_);
    }

    TimeStep of_seconds(int64_t start) const {
        return of(averaged_ ? start + seconds_ / 2 : start, start / seconds_);
    }

    // The beginning of the step that holds a date: steps that do not divide the day start at whole hours or minutes.
    int64_t floor(const Date& date) const {
        const int64_t midnight = at_month(12 * date.year + date.month - 1) + (date.day - 1) * day;
        if (unit_ == "day") return midnight;
        const int64_t length = day % seconds_ ? seconds_ / count_ : seconds_;
        return midnight + date.second / length * length;
    }

    Date read_date(const std::string& text) const {
        static const std::regex form(
            "\\s*(\\d{4})(?:-(\\d{1,2})(?:-(\\d{1,2})(?:[T ](\\d{1,2})(?::(\\d{2}))?(?::(\\d{2}))?Z?)?)?)?\\s*");
        std::smatch found;
        if (!std::regex_match(text, found, form))
            throw Failure(FSAE_USAGE, "found the date '" + text + "'",
                          "such as 2005, 2005-01, 2005-01-31 or 2005-01-31T06:00",
                          "write the year first, in four digits");
        const auto part = [&](int i, int64_t otherwise) { return found[i].matched ? std::stoll(found[i]) : otherwise; };
        const int64_t hour = part(4, 0), minute = part(5, 0), second = part(6, 0);
        const Date date{part(1, 1), part(2, 1), part(3, 1), 3600 * hour + 60 * minute + second};
        const bool is_mixed = calendar_ == "standard" || calendar_ == "gregorian";
        const bool exists = date.month >= 1 && date.month <= 12 && date.day >= 1 &&
                            date.day <= month_days(date.year, date.month) && hour < 24 && minute < 60 && second < 60;
        if (!exists || date.year < (is_mixed ? 1583 : 1))
            throw Failure(FSAE_DATA, "found the date '" + text + "'",
                          "one of the calendar " + calendar_ + (is_mixed ? " from 1583 on" : " from the year 1 on"));
        return date;
    }
};
