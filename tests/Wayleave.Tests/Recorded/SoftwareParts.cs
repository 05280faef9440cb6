using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Scenarios.Conformance;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;

namespace Wayleave.Tests.Recorded;

/// <summary>Nothing of a kernel's: storage that is nowhere, and fences that signal when told.</summary>
internal sealed class SoftwareParts : ICoreParts
{
    private readonly HostContext _host = new(new VirtualClock(), new TraceLog());

    /// <summary>Our own buffers and fences.</summary>
    public static IBufferBackend CreateBackend(bool forgetsReaders = false)
    {
        SoftwareParts parts = new();
        return new CoreBackend(parts._host, parts, forgetsReaders);
    }

    public IExporter CreateStorage(int size) => new BareExporter();

    public Fence CreateFence(string name, IExporter? storage, bool isWriter) =>
        new Timeline(_host, name).CreateFence();

    public void Signal(Fence fence)
    {
        using HostContext.Scope held = _host.Enter();
        fence.Signal();
    }

    public void Settle()
    {
        // A fence that was signalled here is known here.
    }
}
