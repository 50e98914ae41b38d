! Post-process a member: post_process BUNDLE FIELDS.nc OUT.nc
!
! FIELDS.nc holds the variables of the bundle as (time, cell), the months that end with January 2004. OUT.nc gets their
! latents, the fields that come back from these, and four months of member 3 of seed 7 that go on from the last fields,
! all as (step, variable, cell).
program post_process
  use, intrinsic :: ieee_exceptions
  use, intrinsic :: iso_c_binding, only: c_float, c_int64_t
  use fsae
  use netcdf
  implicit none
  type(fsae_model) :: model, none
  character(1000) :: path(3), sentence
  real(c_float), allocatable :: fields(:, :, :), both(:, :, :, :), latents(:, :, :), back(:, :, :), member(:, :, :)
  double precision, allocatable :: phase(:)
  character(7) :: date
  integer :: file, id, ids(3), steps, i, status

  do i = 1, 3
    call get_command_argument(i, path(i))
  end do
  call model%open(path(1), threads=2)

  call expect(nf90_open(path(2), nf90_nowrite, file))
  call expect(nf90_inq_dimid(file, "time", id))
  call expect(nf90_inquire_dimension(file, id, len=steps))
  allocate (fields(model%pixels, size(model%variables), steps), back(model%pixels, size(model%variables), steps))
  allocate (latents(model%latent_pixels, size(model%variables), steps), phase(steps))
  do i = 1, size(model%variables)
    call expect(nf90_inq_varid(file, model%variables(i)%name, id))
    call expect(nf90_get_var(file, id, back(:, 1, :)))
    fields(:, i, :) = back(:, 1, :)
  end do
  call expect(nf90_close(file))
  do i = 1, steps
    write (date, "(i4.4, '-', i2.2)") 2003 + (12 - steps + i) / 12, modulo(12 - steps + i, 12) + 1
    call model%phase(date, phase(i))
  end do

  allocate (both(2, model%pixels, size(model%variables), steps))
  both(2, :, :, :) = fields
  call ieee_set_halting_mode(ieee_inexact, .true.)  ! which nearly every operation is: models may run with traps
  call model%encode(phase, both(2, :, :, :), latents)  ! a section that is not contiguous
  call ieee_set_halting_mode(ieee_inexact, .false.)
  call model%decode(phase, latents, back)
  call model%encode(phase(1), fields(:, :, 1), latents(:, :, 1))  ! one step alone has the same bits
  call model%decode(phase(1), latents(:, :, 1), fields(:, :, 1))
  if (maxval(abs(fields(:, :, 1) - back(:, :, 1))) > 0) error stop "one step differs from the same among several"
  fields(:, :, 1) = both(2, :, :, 1)
  allocate (member(model%pixels, size(model%variables), 4))
  call model%draw("2004-02-29", member, seed=7_c_int64_t, member=3_c_int64_t, &
                  initial=fields(:, :, steps - model%previous + 1:))

  call expect(nf90_create(path(3), nf90_netcdf4, file))
  call write_array("latents", latents)
  call write_array("back", back)
  call write_array("member", member)
  call expect(nf90_close(file))

  ! What goes wrong is told by status and sentence.
  call model%phase("2004-13", phase(1), status, sentence)
  print "(i0, 2a)", status, " ", trim(sentence)
  call model%encode(phase, fields(2:, :, :), latents, stat=status, errmsg=sentence)
  print "(i0, 2a)", status, " ", trim(sentence)
  call model%open(path(1), stat=status, errmsg=sentence)
  print "(i0, 2a)", status, " ", trim(sentence)
  call none%decode(phase, latents, back, stat=status, errmsg=sentence)
  print "(i0, 2a)", status, " ", trim(sentence)
  print "(7a)", model%name, ", ", model%step, ", ", model%variables(1)%name, ", ", model%variables(1)%units
  call model%close()
  call none%open("/nowhere")

contains

  subroutine expect(code)
    integer, intent(in) :: code
    if (code /= nf90_noerr) error stop nf90_strerror(code)
  end subroutine expect

  subroutine write_array(name, values)
    character(*), intent(in) :: name
    real(c_float), intent(in) :: values(:, :, :)
    character(1), parameter :: axes(3) = ["c", "v", "t"]
    integer :: axis
    do axis = 1, 3
      call expect(nf90_def_dim(file, name//"_"//axes(axis), size(values, axis), ids(axis)))
    end do
    call expect(nf90_def_var(file, name, nf90_float, ids, id))
    call expect(nf90_put_var(file, id, values))
  end subroutine write_array

end program post_process
