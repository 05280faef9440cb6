#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// Builds the image of packaging/container as its head says, without a registry and without a daemon: Debian's base is
// made by mmdebstrap from its mirror, buildah runs the recipe in a chroot, and everything is kept in a folder that goes
// at the end. Then the program runs in it: its version, a host, what that host has, and its end by SIGTERM. Exit codes:
// 0 all of that worked, 1 it did not, 3 a tool, root, or the network is missing.

using System.Diagnostics;
using System.Runtime.InteropServices;

const string Base = "docker.io/library/debian:trixie-slim"; // the recipe's
const string Devices = """
    wayleave host --port 0 --udp-port 0 --vram 64MiB --drain 2s &
    host=$!
    for i in $(seq 200); do wayleave devices >/dev/null 2>&1 && break; sleep 0.1; done
    wayleave devices && kill -TERM $host && wait $host && echo "the host has ended, $(id -u)"
    """;

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
if (Environment.UserName != "root")
{
    return Missing("root, for mmdebstrap and buildah to change into what they make");
}

foreach (string tool in (string[])["buildah", "mmdebstrap"])
{
    if (!(Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(f => File.Exists(Path.Combine(f, tool))))
    {
        return Missing(tool);
    }
}

string architecture = RuntimeInformation.OSArchitecture == Architecture.Arm64 ? "linux-arm64" : "linux-x64";
string work = Directory.CreateTempSubdirectory("wayleave-image-").FullName;
string published = Path.Combine(root, "artifacts", "image");
string[] buildah =
[
    "--root", Path.Combine(work, "store"), "--runroot", Path.Combine(work, "run"), "--storage-driver", "vfs",
];
try
{
    // What the network is needed for, at the same time.
    string debian = Path.Combine(work, "base.tar");
    Task<(int Exit, string Output)> made = Task.Run(
        () => Run("mmdebstrap", ["--quiet", "--mode=root", "--variant=minbase", "trixie", debian]));
    (int exit, string output) = Run(
        "dotnet",
        [
            "publish", "src/Wayleave.Cli", "-c", "Release", "-r", architecture, "--self-contained", "-o", published,
            "-nologo", "-v", "quiet", "-p:RestoreLockedMode=false", "-p:RunAnalyzers=false",
        ]);
    if (output.Contains("NU1301", StringComparison.Ordinal) || output.Contains("NU1101", StringComparison.Ordinal))
    {
        return Missing("the runtime's package: " + Last(output));
    }

    if (exit != 0)
    {
        return Failed("publish", output);
    }

    (exit, output) = await made;
    if (exit != 0)
    {
        return Missing("Debian's mirror: " + Last(output));
    }

    (exit, output) = Buildah("from", "scratch");
    string container = Last(output);
    if (exit != 0 || Buildah("add", container, debian, "/") is not (0, _)
        || Buildah("commit", "--rm", container, Base) is not (0, _))
    {
        return Failed("the base", output);
    }

    (exit, output) = Buildah(
        "build", "--isolation", "chroot", "--pull-never", "-f", "packaging/container/Containerfile", "-t", "wayleave",
        ".");
    if (exit != 0)
    {
        return Failed("build", output);
    }

    (_, output) = Buildah("from", "--pull-never", "wayleave");
    container = Last(output);
    foreach (string[] command in (string[][])[["wayleave", "--version"], ["sh", "-c", Devices]])
    {
        (exit, output) = Buildah(["run", "--isolation", "chroot", container, "--", .. command]);
        if (exit != 0)
        {
            return Failed(command[^1], output);
        }

        Console.Write(output);
    }

    return 0;
}
finally
{
    Buildah("rm", "--all");
    Directory.Delete(work, recursive: true);
}

(int Exit, string Output) Buildah(params string[] arguments) => Run("buildah", [.. buildah, .. arguments]);

(int Exit, string Output) Run(string file, string[] arguments)
{
    ProcessStartInfo start = new(file, arguments)
    {
        WorkingDirectory = root,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    };
    using Process process = Process.Start(start)!;
    Task<string> errors = process.StandardError.ReadToEndAsync();
    string output = process.StandardOutput.ReadToEnd();
    process.WaitForExit();
    return (process.ExitCode, process.ExitCode == 0 ? output : output + errors.Result);
}

static string Last(string output) => output.TrimEnd().Split('\n')[^1];

static int Missing(string what)
{
    Console.Error.WriteLine($"image: needs {what}");
    return 3;
}

static int Failed(string what, string output)
{
    Console.Error.WriteLine(output);
    Console.Error.WriteLine($"image: failed: {what}");
    return 1;
}
