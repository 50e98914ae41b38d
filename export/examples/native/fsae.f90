!> Compress, decompress and draw climate fields with a bundle of fsae: the functions of fsae.h for Fortran 2018.
!>
!>     use fsae, only: fsae_model
!>     type(fsae_model) :: model
!>     call model%open("engines/default", threads=1)
!>     call model%encode(phase, field, latent)      ! field(pixel, variable), latent(latent_pixel, variable)
!>     call model%close()
!>
!> Arrays are real(c_float), which is real32, with the pixel first, in the nested order of HEALPix. Several steps have
!> one dimension more, the last. Array sections that are not contiguous are copied by the compiler.
!>
!> As for ALLOCATE, a procedure that fails sets `stat`, to one of the FSAE_ constants, and `errmsg`, which keeps its
!> length; without `stat` it stops the program with the sentence and the status as exit code.
module fsae
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_double, c_float, c_int, c_int32_t, c_int64_t, c_loc, &
    c_null_char, c_null_ptr, c_ptr, c_size_t, c_f_pointer
  use, intrinsic :: iso_fortran_env, only: error_unit
  implicit none
  private

  integer, parameter, public :: FSAE_OK = 0, FSAE_FAILED = 1, FSAE_USAGE = 2, FSAE_DEVICE = 3, FSAE_BUNDLE = 4, &
    FSAE_DATA = 5, FSAE_TOLERANCE = 6  !< what they mean stands in fsae.h

  type, public :: fsae_variable
    character(:), allocatable :: name, standard_name, units, cell_methods
    real(c_double) :: valid_range(2)  !< in the units
  end type fsae_variable

  !> An opened bundle and facts about it. It must be closed once: a copy of it is the same bundle.
  type, public :: fsae_model
    character(:), allocatable :: name, precision, step, calendar, forcing_name, forcing_units
    type(fsae_variable), allocatable :: variables(:)
    integer :: pixels = 0, latent_pixels = 0, zoom = 0, latent_zoom = 0
    integer :: window = 0    !< steps that are drawn together; 0 if the bundle does not generate
    integer :: previous = 0  !< steps of the initial fields of `draw`
    logical :: fast = .false.  !< there is a distilled denoiser
    real(c_double) :: forcing_range(2) = 0  !< of the training data
    type(c_ptr), private :: handle = c_null_ptr
  contains
    procedure :: open => open_model
    procedure :: close => close_model
    procedure :: phase => phase_of
    procedure, private :: encode_one, encode_steps, decode_one, decode_steps
    generic :: encode => encode_one, encode_steps
    generic :: decode => decode_one, decode_steps
    procedure :: draw => draw_member
  end type fsae_model

  type, bind(c) :: description_t
    type(c_ptr) :: name, precision, step, calendar
    integer(c_int64_t) :: variables, pixels, latent_pixels
    integer(c_int32_t) :: zoom, latent_zoom, window, previous, fast
    type(c_ptr) :: forcing_name, forcing_units
    real(c_double) :: forcing_range(2)
  end type description_t

  type, bind(c) :: variable_t
    type(c_ptr) :: name, standard_name, units, cell_methods
    real(c_double) :: valid_range(2)
  end type variable_t

  type, bind(c) :: request_t
    type(c_ptr) :: start
    integer(c_int64_t) :: steps, member, seed
    type(c_ptr) :: forcing, initial
    integer(c_int32_t) :: fast
  end type request_t

  interface
    integer(c_int) function c_open(folder, precision, threads, model) bind(c, name="fsae_open")
      import :: c_char, c_int, c_ptr
      character(kind=c_char), intent(in) :: folder(*), precision(*)
      integer(c_int), value :: threads
      type(c_ptr), intent(out) :: model
    end function c_open

    subroutine c_close(model) bind(c, name="fsae_close")
      import :: c_ptr
      type(c_ptr), value :: model
    end subroutine c_close

    integer(c_int) function c_describe(model, description) bind(c, name="fsae_describe")
      import :: c_int, c_ptr, description_t
      type(c_ptr), value :: model
      type(description_t), intent(out) :: description
    end function c_describe

    integer(c_int) function c_describe_variable(model, place, variable) bind(c, name="fsae_describe_variable")
      import :: c_int, c_int64_t, c_ptr, variable_t
      type(c_ptr), value :: model
      integer(c_int64_t), value :: place
      type(variable_t), intent(out) :: variable
    end function c_describe_variable

    integer(c_int) function c_phase(model, date, phase) bind(c, name="fsae_phase")
      import :: c_char, c_double, c_int, c_ptr
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: date(*)
      real(c_double), intent(out) :: phase
    end function c_phase

    integer(c_int) function c_encode(model, steps, phases, fields, field_count, latents, latent_count) &
        bind(c, name="fsae_encode")
      import :: c_double, c_float, c_int, c_int64_t, c_ptr, c_size_t
      type(c_ptr), value :: model
      integer(c_int64_t), value :: steps
      integer(c_size_t), value :: field_count, latent_count
      real(c_double), intent(in) :: phases(*)
      real(c_float), intent(in) :: fields(*)
      real(c_float), intent(out) :: latents(*)
    end function c_encode

    integer(c_int) function c_decode(model, steps, phases, latents, latent_count, fields, field_count) &
        bind(c, name="fsae_decode")
      import :: c_double, c_float, c_int, c_int64_t, c_ptr, c_size_t
      type(c_ptr), value :: model
      integer(c_int64_t), value :: steps
      integer(c_size_t), value :: latent_count, field_count
      real(c_double), intent(in) :: phases(*)
      real(c_float), intent(in) :: latents(*)
      real(c_float), intent(out) :: fields(*)
    end function c_decode

    integer(c_int) function c_draw(model, request, fields, field_count) bind(c, name="fsae_draw")
      import :: c_float, c_int, c_ptr, c_size_t, request_t
      type(c_ptr), value :: model
      type(request_t), intent(in) :: request
      real(c_float), intent(out) :: fields(*)
      integer(c_size_t), value :: field_count
    end function c_draw

    type(c_ptr) function c_error() bind(c, name="fsae_error")
      import :: c_ptr
    end function c_error

    integer(c_size_t) function c_strlen(text) bind(c, name="strlen")
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function c_strlen
  end interface

contains

  !> Open the bundle in a folder, in a precision such as fp32, the default. `threads` compute within a call; by default,
  !> and for 0, it is one for each core.
  subroutine open_model(self, folder, precision, threads, stat, errmsg)
    class(fsae_model), intent(inout) :: self
    character(*), intent(in) :: folder
    character(*), intent(in), optional :: precision
    integer, intent(in), optional :: threads
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wanted
    type(description_t) :: found
    type(variable_t) :: variable
    integer(c_int) :: status, cores
    integer :: i

    if (c_associated(self%handle)) then
      call report(FSAE_USAGE, stat, errmsg, "found an open model, expected a closed one: close it first")
      return
    end if
    wanted = "fp32"
    if (present(precision)) wanted = trim(precision)
    cores = 0
    if (present(threads)) cores = int(threads, c_int)
    status = c_open(trim(folder)//c_null_char, wanted//c_null_char, cores, self%handle)
    if (status == FSAE_OK) status = c_describe(self%handle, found)
    if (status == FSAE_OK) then
      self%name = text_of(found%name)
      self%precision = text_of(found%precision)
      self%step = text_of(found%step)
      self%calendar = text_of(found%calendar)
      self%forcing_name = text_of(found%forcing_name)
      self%forcing_units = text_of(found%forcing_units)
      self%forcing_range = found%forcing_range
      self%pixels = int(found%pixels)
      self%latent_pixels = int(found%latent_pixels)
      self%zoom = int(found%zoom)
      self%latent_zoom = int(found%latent_zoom)
      self%window = int(found%window)
      self%previous = int(found%previous)
      self%fast = found%fast == 1
      if (allocated(self%variables)) deallocate (self%variables)
      allocate (self%variables(found%variables))
      do i = 1, size(self%variables)
        status = c_describe_variable(self%handle, int(i - 1, c_int64_t), variable)
        self%variables(i)%name = text_of(variable%name)
        self%variables(i)%standard_name = text_of(variable%standard_name)
        self%variables(i)%units = text_of(variable%units)
        self%variables(i)%cell_methods = text_of(variable%cell_methods)
        self%variables(i)%valid_range = variable%valid_range
      end do
    end if
    call report(status, stat, errmsg)
  end subroutine open_model

  subroutine close_model(self)
    class(fsae_model), intent(inout) :: self
    call c_close(self%handle)
    self%handle = c_null_ptr
  end subroutine close_model

  !> The phase, 0 to 1, of the step that holds a date such as 2005-01-31: see fsae.h.
  subroutine phase_of(self, date, phase, stat, errmsg)
    class(fsae_model), intent(in) :: self
    character(*), intent(in) :: date
    real(c_double), intent(out) :: phase
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call report(c_phase(self%handle, trim(date)//c_null_char, phase), stat, errmsg)
  end subroutine phase_of

  !> Latents (latent_pixel, variable) of the fields (pixel, variable) of a step.
  subroutine encode_one(self, phase, fields, latents, stat, errmsg)
    class(fsae_model), intent(in) :: self
    real(c_double), intent(in) :: phase
    real(c_float), intent(in), contiguous :: fields(:, :)
    real(c_float), intent(out), contiguous :: latents(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (.not. fits(self, "fields", [shape(fields), 1], self%pixels, 1, stat, errmsg)) return
    if (.not. fits(self, "latents", [shape(latents), 1], self%latent_pixels, 1, stat, errmsg)) return
    call report(c_encode(self%handle, 1_c_int64_t, [phase], fields, size(fields, kind=c_size_t), latents, &
                         size(latents, kind=c_size_t)), stat, errmsg)
  end subroutine encode_one

  !> Latents (latent_pixel, variable, step) of fields (pixel, variable, step) at phases (step).
  subroutine encode_steps(self, phase, fields, latents, stat, errmsg)
    class(fsae_model), intent(in) :: self
    real(c_double), intent(in), contiguous :: phase(:)
    real(c_float), intent(in), contiguous :: fields(:, :, :)
    real(c_float), intent(out), contiguous :: latents(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (.not. fits(self, "fields", shape(fields), self%pixels, size(phase), stat, errmsg)) return
    if (.not. fits(self, "latents", shape(latents), self%latent_pixels, size(phase), stat, errmsg)) return
    call report(c_encode(self%handle, size(phase, kind=c_int64_t), phase, fields, size(fields, kind=c_size_t), &
                         latents, size(latents, kind=c_size_t)), stat, errmsg)
  end subroutine encode_steps

  !> The fields (pixel, variable) of latents (latent_pixel, variable) of a step.
  subroutine decode_one(self, phase, latents, fields, stat, errmsg)
    class(fsae_model), intent(in) :: self
    real(c_double), intent(in) :: phase
    real(c_float), intent(in), contiguous :: latents(:, :)
    real(c_float), intent(out), contiguous :: fields(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (.not. fits(self, "latents", [shape(latents), 1], self%latent_pixels, 1, stat, errmsg)) return
    if (.not. fits(self, "fields", [shape(fields), 1], self%pixels, 1, stat, errmsg)) return
    call report(c_decode(self%handle, 1_c_int64_t, [phase], latents, size(latents, kind=c_size_t), fields, &
                         size(fields, kind=c_size_t)), stat, errmsg)
  end subroutine decode_one

  !> Fields (pixel, variable, step) of latents (latent_pixel, variable, step) at phases (step).
  subroutine decode_steps(self, phase, latents, fields, stat, errmsg)
    class(fsae_model), intent(in) :: self
    real(c_double), intent(in), contiguous :: phase(:)
    real(c_float), intent(in), contiguous :: latents(:, :, :)
    real(c_float), intent(out), contiguous :: fields(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (.not. fits(self, "latents", shape(latents), self%latent_pixels, size(phase), stat, errmsg)) return
    if (.not. fits(self, "fields", shape(fields), self%pixels, size(phase), stat, errmsg)) return
    call report(c_decode(self%handle, size(phase, kind=c_int64_t), phase, latents, size(latents, kind=c_size_t), &
                         fields, size(fields, kind=c_size_t)), stat, errmsg)
  end subroutine decode_steps

  !> Draw fields (pixel, variable, step) of a member; the first step holds the date `start`.
  !>
  !> `seed` and `member` are 0 by default. `forcing` (step), by default that of the training data, is as far as the
  !> climate has responded to it. The member continues the `initial` fields (pixel, variable, previous) of the steps
  !> just before `start`, if they are given. `fast` draws with the distilled denoiser.
  subroutine draw_member(self, start, fields, seed, member, forcing, initial, fast, stat, errmsg)
    class(fsae_model), intent(in) :: self
    character(*), intent(in) :: start
    real(c_float), intent(out), contiguous :: fields(:, :, :)
    integer(c_int64_t), intent(in), optional :: seed, member
    real(c_float), intent(in), optional, contiguous, target :: forcing(:), initial(:, :, :)
    logical, intent(in), optional :: fast
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(kind=c_char), target :: date(len(start) + 1)
    type(request_t) :: request

    if (.not. fits(self, "fields", shape(fields), self%pixels, size(fields, 3), stat, errmsg)) return
    date = transfer(start//c_null_char, date)
    request = request_t(c_loc(date), size(fields, 3, kind=c_int64_t), 0, 0, c_null_ptr, c_null_ptr, 0)
    if (present(seed)) request%seed = seed
    if (present(member)) request%member = member
    if (present(forcing)) then
      if (size(forcing) /= size(fields, 3)) then
        call report(FSAE_DATA, stat, errmsg, "found a forcing of another length, expected a value for each step")
        return
      end if
      request%forcing = c_loc(forcing)
    end if
    if (present(initial)) then
      if (.not. fits(self, "initial fields", shape(initial), self%pixels, self%previous, stat, errmsg)) return
      request%initial = c_loc(initial)
    end if
    if (present(fast)) request%fast = merge(1, 0, fast)
    call report(c_draw(self%handle, request, fields, size(fields, kind=c_size_t)), stat, errmsg)
  end subroutine draw_member

  !> True if an array has the shape (pixels, variables, steps); if not, that is reported.
  logical function fits(self, name, found, pixels, steps, stat, errmsg)
    class(fsae_model), intent(in) :: self
    character(*), intent(in) :: name
    integer, intent(in) :: found(3), pixels, steps
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(200) :: text
    integer :: expected(3)

    fits = .true.
    if (.not. allocated(self%variables)) return  ! the call that follows says that there is no model
    expected = [pixels, size(self%variables), steps]
    fits = all(found == expected)
    if (fits) return
    write (text, "(3a, 2(i0, ', '), i0, a, 2(i0, ', '), i0, a)") "found ", name, " of the shape (", found, &
      "), expected (", expected, "): pixels, variables and steps"
    call report(FSAE_DATA, stat, errmsg, trim(text))
  end function fits

  !> Set `stat` and `errmsg`; without `stat` stop the program if there is something to report. The sentence is that of
  !> the library by default.
  subroutine report(status, stat, errmsg, sentence)
    integer, intent(in) :: status
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(*), intent(in), optional :: sentence
    character(:), allocatable :: text

    if (present(stat)) stat = status
    if (status == FSAE_OK) return
    if (present(sentence)) then
      text = sentence
    else
      text = text_of(c_error())
    end if
    if (present(errmsg)) errmsg = text
    if (present(stat)) return
    write (error_unit, "(2a)") "fsae: ", text
    error stop status
  end subroutine report

  !> A text of C.
  function text_of(address) result(text)
    type(c_ptr), intent(in) :: address
    character(:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: i
    call c_f_pointer(address, letters, [c_strlen(address)])
    allocate (character(size(letters)) :: text)
    do i = 1, size(letters)
      text(i:i) = letters(i)
    end do
  end function text_of

end module fsae
