/* libfsae: compress, decompress and draw climate fields with a bundle of fsae, from C, C++ and Fortran (fsae.f90).
 *
 * Status. Functions that can fail return a status, which is the exit code of fsae-run for the same fault. After any but
 * FSAE_OK, fsae_error() has one sentence: what was found, what was expected, what to do. Output arguments then hold
 * nothing of use. No C++ exception leaves the library.
 *
 * Arrays are float32 in C order, and their number of elements is given with them and checked. Fields are (step,
 * variable, pixel) in the units of the variable, 12 * 4^zoom pixels in the nested order of HEALPix; latents are (step,
 * variable, latent pixel), dimensionless.
 *
 * Dates are texts such as 2005, 2005-01, 2005-01-31 or 2005-01-31T06:00 in the calendar of the bundle, and stand for
 * the step that holds them. Its phase is the fraction of the year that has passed at the middle of the averaging
 * period, or at the stamp of instantaneous values.
 *
 * Threads. Several threads may use one model at the same time, and results are the same bits. fsae_close must come
 * last. fsae_error() is of the thread that calls it. The first fsae_open of a process sets the environment variable
 * ORT_DISABLE_TELEMETRY, so other threads should not use getenv meanwhile. Traps of floating-point exceptions are off
 * during a call, and the flags and traps of the caller are as before after it.
 */
#ifndef FSAE_H
#define FSAE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(FSAE_BUILD)
#define FSAE_API __declspec(dllexport)
#elif defined(_WIN32)
#define FSAE_API __declspec(dllimport)
#else
#define FSAE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  FSAE_OK = 0,
  FSAE_FAILED = 1,    /* anything else, such as too little memory */
  FSAE_USAGE = 2,     /* arguments that contradict each other, are missing or unknown */
  FSAE_DEVICE = 3,    /* ONNX Runtime is too old, cannot run this precision, or failed */
  FSAE_BUNDLE = 4,    /* a bundle that is missing, damaged, of a newer schema, or that lacks what is asked for */
  FSAE_DATA = 5,      /* fields, forcings or dates that do not fit: sizes, missing or impossible values */
  FSAE_TOLERANCE = 6  /* the model gave values that are impossible */
};

typedef struct fsae_model fsae_model; /* an opened bundle */

/* Facts about a bundle. Texts belong to the model and end with it. */
typedef struct fsae_description {
  const char *name;
  const char *precision;
  const char *step;     /* such as "1 month" */
  const char *calendar; /* of CF */
  int64_t variables;
  int64_t pixels;        /* of a field of one variable */
  int64_t latent_pixels;
  int32_t zoom;
  int32_t latent_zoom;
  int32_t window;   /* steps that are drawn together; 0 if the bundle does not generate */
  int32_t previous; /* steps of `initial` in a request */
  int32_t fast;     /* 1 if there is a distilled denoiser */
  const char *forcing_name;  /* empty if the bundle does not generate */
  const char *forcing_units;
  double forcing_range[2]; /* of the training data */
} fsae_description;

typedef struct fsae_variable {
  const char *name;
  const char *standard_name;
  const char *units;
  const char *cell_methods;
  double valid_range[2]; /* in its units */
} fsae_variable;

/* A member to draw: the same numbers as those of `fsae-run generate`. Set unused entries to 0. */
typedef struct fsae_request {
  const char *start; /* the first step holds this date */
  int64_t steps;
  int64_t member; /* from 0 */
  uint64_t seed;
  /* (steps) in the units of the bundle, as far as the climate has responded; NULL: that of the training data */
  const float *forcing;
  /* fields (previous, variable, pixel) of the steps just before `start`, which the member continues; NULL: none */
  const float *initial;
  int32_t fast; /* 1: by the distilled denoiser */
} fsae_request;

/* Open the bundle in a folder. Graphs are loaded, and the hashes of their files checked, when they are first needed.
 *
 * precision: such as "fp32"; NULL is that. threads: those that compute within a call, from 1; 0 is one for each core.
 */
FSAE_API int fsae_open(const char *folder, const char *precision, int threads, fsae_model **model);

/* Close a model and free its memory; NULL is allowed. */
FSAE_API void fsae_close(fsae_model *model);

FSAE_API int fsae_describe(const fsae_model *model, fsae_description *description);

/* Describe the variable of a place from 0. */
FSAE_API int fsae_describe_variable(const fsae_model *model, int64_t place, fsae_variable *variable);

/* The phase, 0 to 1, of the step that holds a date. */
FSAE_API int fsae_phase(const fsae_model *model, const char *date, double *phase);

/* Latents of the fields of some steps, whose phases (steps) are given. */
FSAE_API int fsae_encode(fsae_model *model, int64_t steps, const double *phases, const float *fields,
                         size_t field_count, float *latents, size_t latent_count);

/* Fields of latents, the inverse. */
FSAE_API int fsae_decode(fsae_model *model, int64_t steps, const double *phases, const float *latents,
                         size_t latent_count, float *fields, size_t field_count);

/* Fields (step, variable, pixel) of the steps of a member. */
FSAE_API int fsae_draw(fsae_model *model, const fsae_request *request, float *fields, size_t field_count);

/* The sentence about the last call in this thread that failed; empty if none has. */
FSAE_API const char *fsae_error(void);

#ifdef __cplusplus
}
#endif

#endif
