{
  description = "Ringest: a log ingestion server with a ring per core, its load generator, its benchmarks and soak runs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forAll = make: lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: make nixpkgs.legacyPackages.${system});
      ours = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system};
      app = package: program: description: {
        type = "app";
        program = "${package}/bin/${program}";
        meta = { inherit description; };
      };
    in
    {
      packages = forAll (pkgs: rec {
        default = import ./nix/package.nix { inherit lib pkgs; };
        soak = import ./nix/soak.nix {
          inherit pkgs;
          ringest = default;
        };
      });

      apps = forAll (
        pkgs:
        let
          ringest = (ours pkgs).default;
          soak = app (ours pkgs).soak "ringest-soak" "Runs soak scenarios against servers of its own";
        in
        {
          inherit soak;
          default = soak;
          bench = app ringest "ringest-bench" "Measures the server, compares, and judges";
          loadgen = app ringest "ringest-loadgen" "Sends log lines and keeps a ledger of what was promised";
          server = app ringest "ringest-server" "Takes log lines and acknowledges them once they are safe";
        }
      );

      checks = forAll (
        pkgs:
        import ./nix/checks.nix {
          inherit lib pkgs;
          inherit (ours pkgs) soak;
        }
      );

      devShells = forAll (pkgs: {
        default = import ./nix/shell.nix { inherit pkgs; };
      });
    };
}
