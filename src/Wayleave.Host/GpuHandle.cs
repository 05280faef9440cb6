using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Configuration;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>A software GPU of a running host: the device, its memory and the thread of its copy engine.</summary>
public sealed class GpuHandle : IDisposable
{
    // A window is less than 2 GiB, so that a Memory<byte> can hold it.
    private const int WindowBytes = 1 << 30;

    // Much shorter than a copy's time-out, so that a hang is noticed about when it says.
    private static readonly TimeSpan s_watchInterval = TimeSpan.FromSeconds(1);

    private readonly MappedMemory[] _vram;
    private readonly MappedMemory[] _systemPool;
    private readonly HostContext _host;
    private readonly CopyEngineRunner _runner;
    private readonly ITimer _watchdog;

    internal GpuHandle(HostContext host, PciFabric fabric, PciFunction function, GpuConfig config, TimeProvider clock)
    {
        _host = host;
        Name = config.Name;
        _vram = MappedMemory.AllocateWindows(config.VramBytes, WindowBytes, hugePages: true);
        _systemPool = config.SystemPoolBytes == 0
            ? []
            : MappedMemory.AllocateWindows(config.SystemPoolBytes, WindowBytes, hugePages: true);
        using (host.Enter())
        {
            Device = new GpuDevice(
                host,
                fabric,
                function,
                new GpuOptions(),
                [.. _vram.Select(m => m.Memory)],
                [.. _systemPool.Select(m => m.Memory)]);
        }

        _runner = new CopyEngineRunner(Device.CopyEngine, host, $"wayleave {config.Name} copy engine");
        _watchdog = clock.CreateTimer(_ => Watch(), null, s_watchInterval, s_watchInterval);
    }

    public string Name { get; }

    public GpuDevice Device { get; }

    /// <summary>What stopped the copy engine, or null.</summary>
    public Exception? Failure => _runner.Failure;

    /// <summary>Stops the engine, then unmaps the memory: nobody may be inside any gate of it.</summary>
    public void Dispose()
    {
        _watchdog.Dispose();
        _runner.Dispose();
        foreach (MappedMemory memory in _vram.Concat(_systemPool))
        {
            ((IDisposable)memory).Dispose();
        }
    }

    // On a thread of the pool: the engine's own may be the one that hangs.
    private void Watch()
    {
        using (_host.Enter())
        {
            Device.CopyEngine.Hangs.HandleTimeout(_host.Now);
        }
    }
}
