using Wayleave.Host.Configuration;
using Wayleave.Host.Control;

namespace Wayleave.Linux.Tests.Control;

/// <summary>A runtime directory of its own, so that a test meets no other host of this user.</summary>
public sealed class ControlTestFolder : IDisposable
{
    /// <summary>The folder above the runtime directory.</summary>
    public string Root { get; } = Directory.CreateTempSubdirectory("wayleave-test-").FullName;

    /// <summary>Where hosts put token, socket and registration.</summary>
    public string Runtime => Path.Combine(Root, "wayleave");

    /// <summary>What the environment says in this test, besides XDG_RUNTIME_DIR.</summary>
    public Dictionary<string, string> Variables { get; } = [];

    internal ControlListenerOptions ListenerOptions => new() { EnvironmentVariables = Lookup };

    /// <summary>For a host that answers. A test of one that does not says how long it waits.</summary>
    public ControlClientOptions ClientOptions => new() { EnvironmentVariables = Lookup, Timeout = Patience.Max };

    /// <summary>A host on a loopback address and a port that the system chooses.</summary>
    public static HostConfig Config { get; } = new()
    {
        Nics = [new NicConfig { UdpPort = 0 }],
        Gpus = [new GpuConfig { VramBytes = 64 << 20, SystemPoolBytes = 64 << 20 }],
        Control = new ControlConfig { Port = 0 },
    };

    /// <summary>What is left in the runtime directory.</summary>
    public string[] Leftovers() =>
        Directory.Exists(Runtime) ? [.. Directory.GetFileSystemEntries(Runtime).Select(p => Path.GetFileName(p))] : [];

    public void Dispose() => Directory.Delete(Root, recursive: true);

    private string? Lookup(string name) => name == "XDG_RUNTIME_DIR" ? Root : Variables.GetValueOrDefault(name);
}
