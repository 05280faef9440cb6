using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Accelerator;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.PeerMemory;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Accelerator;

/// <summary>
/// An accelerator with sixteen pages of 4 KiB, as the device a of a tree, opened by one process. Takes the host lock
/// itself.
/// </summary>
internal sealed class AcceleratorFixture
{
    public const ulong Page = 4096;

    public AcceleratorFixture(AcceleratorOptions? options = null, Tree? tree = null, PciFunction? importer = null)
    {
        Tree = tree ?? Trees.Switch(Trees.Unlisted);
        Host = new HostContext(Clock, Trace);
        Fabric = new PciFabric(Tree.Topology);
        using (Host.Enter())
        {
            if (importer is not null)
            {
                Tree.Topology.Add(importer, (PciBridge)Tree["sw.1"]);
            }

            Importer = importer ?? Tree["b"];
            Fabric.Plug(Importer);
            Device = new AcceleratorDevice(
                Host, Fabric, Tree["a"], options ?? new AcceleratorOptions { PageBytes = (int)Page }, [Memory]);
            Context = Open();
        }

        Run();
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public Tree Tree { get; }

    public PciFabric Fabric { get; }

    public PciFunction Importer { get; }

    public byte[] Memory { get; } = new byte[16 * Page];

    public AcceleratorDevice Device { get; }

    public AcceleratorContext Context { get; private set; }

    public AcceleratorContext Open()
    {
        Assert.Equal(Errno.Success, Device.TryOpen("process 1", out AcceleratorContext? context));
        return Context = context!;
    }

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public void Run() => Device.Engine.Drive(int.MaxValue);

    public ulong Allocate(ulong pages) => Locked(() =>
    {
        Assert.Equal(Errno.Success, Context.TryAllocate(pages * Page, out ulong handle));
        return handle;
    });

    public ulong Map(ulong handle) => Locked(() =>
    {
        Assert.Equal(Errno.Success, Context.TryMap(handle, out ulong address));
        return address;
    });

    public Errno TryExport(ulong address, ulong size, ulong offset, out SharedBuffer? buffer)
    {
        using (Host.Enter())
        {
            return Context.TryExport("range", address, size, offset, out buffer);
        }
    }

    public SharedBuffer Export(ulong address, ulong size, ulong offset = 0)
    {
        Assert.Equal(Errno.Success, TryExport(address, size, offset, out SharedBuffer? buffer));
        return buffer!;
    }

    public PeerUser Attach(SharedBuffer buffer)
    {
        PeerUser user = new(Host, Importer);
        Assert.Equal(Errno.Success, user.TryAttach(buffer));
        return user;
    }

    public void Detach(PeerUser user) => Locked(() => user.Attachment!.Buffer.Detach(user.Attachment));
}
