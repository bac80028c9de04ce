# packages.sh - sourced: what building and running needs, what tests need on top.
build_packages="gcc libc6-dev cmake ninja-build pkg-config libopenmpi-dev openmpi-bin liburing-dev libjansson-dev
libxxhash-dev libpcre2-dev libutf8proc-dev libopenblas0-openmp"
test_packages="libcmocka-dev binutils iproute2"

# Open MPI refuses root and more ranks than cores unless told otherwise.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
