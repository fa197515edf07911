# The workspace: ringest-server, ringest-loadgen and ringest-bench in bin/. With `tests` nothing is kept: the tests are run
# that take no kernel interface but files and memory, because a build sandbox need not have more.
#
# Crates come by the checksums of Cargo.lock, so there is no hash to keep here.
{
  lib,
  pkgs,
  tests ? false,
}:
pkgs.rustPlatform.buildRustPackage (
  {
    pname = "ringest";
    version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;
    # What is compiled, and nothing else: an edit of a document or a script builds nothing again.
    src = builtins.path {
      name = "ringest-source";
      path = ../.;
      filter =
        path: _:
        builtins.any (part: lib.hasPrefix (toString ../. + part) path) [
          "/Cargo."
          "/rust-toolchain.toml"
          "/bench"
          "/loadgen"
          "/server"
        ];
    };
    cargoLock.lockFile = ../Cargo.lock;
    cargoBuildFlags = [
      "--package=ringest-server"
      "--package=ringest-loadgen"
      "--package=ringest-bench"
    ];
    # glommio's build script calls it, in vain, and does not build without.
    nativeBuildInputs = [ pkgs.git ];
    doCheck = tests;
    # perf and the flame graphs live on the line tables.
    dontStrip = true;
    meta = {
      description = "Log ingestion server with a ring per core, load generator and benchmarks";
      license = lib.licenses.asl20;
      mainProgram = "ringest-server";
      platforms = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    };
  }
  // lib.optionalAttrs tests {
    pname = "ringest-tests";
    buildPhase = ":";
    checkType = "debug";
    cargoTestFlags = [
      "--package=ringest-wire"
      "--package=ringest-simd"
      "--package=ringest-ingest"
    ];
    installPhase = "mkdir $out";
  }
)
