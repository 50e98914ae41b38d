/* Print what a bundle is, as `name precision variables pixels latent_pixels`, in C99: fsae.h is a header of C. */
#include <fsae.h>
#include <stdio.h>

int main(int count, char **words) {
  fsae_model *model = NULL;
  fsae_description facts;
  fsae_variable variable;
  if (count != 2) return FSAE_USAGE;
  int status = fsae_open(words[1], NULL, 1, &model);
  if (status == FSAE_OK) status = fsae_describe(model, &facts);
  if (status == FSAE_OK) status = fsae_describe_variable(model, facts.variables - 1, &variable);
  if (status == FSAE_OK) printf("%s %s %d %d %d\n%s [%s] %g\n", facts.name, facts.precision, (int)facts.variables,
                                (int)facts.pixels, (int)facts.latent_pixels, variable.name, variable.units,
                                variable.valid_range[1]);
  else fprintf(stderr, "%s\n", fsae_error());
  fsae_close(model);
  return status;
}
