using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Nvme;

/// <summary>A host with a GPU and a drive below one switch; the medium is an array, and waits when told.</summary>
internal sealed class NvmeFixture
{
    public const int Page = 4096;
    public const int Block = 512;

    private readonly byte[] _driverMemory = new byte[NvmeDriver.MemoryBytes];
    private readonly int[] _tails = [2, 0]; // the driver has sent two admin commands

    public NvmeFixture(HostBridge? bridge = null, int mediumBytes = 4 << 20, Action<PciTopology>? arrange = null)
    {
        Host = new HostContext(Clock);
        PciTopology topology = new();
        topology.Add(bridge ?? new HostBridge(0, 0));
        arrange?.Invoke(topology);
        Fabric = new PciFabric(topology);
        Medium = new byte[mediumBytes];
        for (int i = 0; i < mediumBytes; i++)
        {
            Medium[i] = (byte)((i * 31) + (i >> 9));
        }

        using (Host.Enter())
        {
            GpuOptions options = new() { CopyBlockBytes = Page };
            PciFunction gpu = topology.Find("gpu0") ?? new PciFunction("0000:03:00.0", "gpu0");
            PciFunction drive = topology.Find("nvme0") ?? new PciFunction("0000:04:00.0", "nvme0");
            Gpu = new GpuDevice(Host, Fabric, gpu, options, [Vram], [new byte[4 << 20]]);
            NvmeControllerOptions nvme = new() { RequestsMax = 4, BlockBytes = Page };
            byte[] buffers = new byte[4 * NvmeControllerOptions.TransferBytesMax];
            Controller = new NvmeController(Fabric, drive, nvme, buffers, MemoryBuffer);
            Namespace = new NvmeNamespace(1, 9, (ulong)mediumBytes / Block, IsReadOnly: false);
            Controller.Attach(Namespace);
            Driver = new NvmeDriver(Host, Fabric, Controller, _driverMemory);
            Driver.Start();
        }
    }

    public VirtualClock Clock { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public byte[] Vram { get; } = new byte[4 << 20];

    public byte[] MemoryBuffer { get; } = new byte[64 * Page];

    public byte[] Medium { get; }

    public GpuDevice Gpu { get; }

    public NvmeController Controller { get; }

    public NvmeDriver Driver { get; }

    public NvmeNamespace Namespace { get; }

    /// <summary>Media requests that were taken and not completed, while <see cref="HoldsMedium"/>.</summary>
    public List<NvmeMediaRequest> Held { get; } = [];

    public bool HoldsMedium { get; set; }

    /// <summary>What the next media request fails with.</summary>
    public Errno MediumFails { get; set; }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    /// <summary>Controller, medium, driver and copy engine until none has anything to do.</summary>
    public void Run()
    {
        while (Controller.Drive(int.MaxValue, Serve) > 0 | Locked(Driver.Poll) | Gpu.CopyEngine.Drive(int.MaxValue) > 0)
        {
        }
    }

    /// <summary>One step of the controller.</summary>
    public bool Step()
    {
        Assert.True(Controller.TryEnter());
        bool did = Controller.Step();
        while (Controller.TryTakeMediaRequest(out NvmeMediaRequest? request))
        {
            Serve(request!);
        }

        Controller.Exit();
        return did;
    }

    public void Ready()
    {
        Run();
        Assert.Equal(NvmeDriverState.Ready, Driver.State);
    }

    public GpuBuffer Create(int bytes, StorageKind storage = StorageKind.Movable)
    {
        GpuBuffer? buffer = null;
        GpuBufferInfo info = new("target", (ulong)bytes, storage, GpuDomain.Vram);
        Locked(() => Assert.Equal(Errno.Success, Gpu.TryCreate(info, out buffer)));
        Run();
        return buffer!;
    }

    public NvmeBufferUser Use(GpuBuffer buffer)
    {
        NvmeBufferUser? user = null;
        Locked(() => Assert.Equal(
            Errno.Success,
            NvmeBufferUser.TryCreate(Host, Driver, Controller.Function, buffer.Shared, out user)));
        return user!;
    }

    /// <summary>Starts one command with the reservation held.</summary>
    public Errno Start(
        NvmeBufferUser user,
        GpuBuffer buffer,
        NvmeOpcode opcode,
        ulong lba,
        int blocks,
        ulong offset,
        Action<Fence?>? started = null)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Shared.Reservation.TryLock(ticket).Kind);
            Errno errno = user.TryStart(ticket, opcode, Namespace, lba, blocks, offset, out Fence? fence);
            started?.Invoke(fence);
            buffer.Shared.Reservation.Unlock(ticket);
            return errno;
        }
    }

    public void Fill(GpuBuffer buffer, byte value)
    {
        DmaPort processor = new(Fabric.Processor);
        for (ulong at = 0; at < buffer.SizeBytes;)
        {
            Assert.True(buffer.Placement.Addresses.TryLocate(at, out DeviceAddress address, out ulong contiguous));
            int length = (int)Math.Min(contiguous, buffer.SizeBytes - at);
            Assert.Equal(Errno.Success, processor.TryWrite(address, length, out Span<byte> part));
            part.Fill(value);
            at += (ulong)part.Length;
        }
    }

    public byte[] BytesOf(GpuBuffer buffer)
    {
        byte[] bytes = new byte[buffer.SizeBytes];
        DmaPort processor = new(Fabric.Processor);
        for (ulong at = 0; at < buffer.SizeBytes;)
        {
            Assert.True(buffer.Placement.Addresses.TryLocate(at, out DeviceAddress address, out ulong contiguous));
            int length = (int)Math.Min(contiguous, buffer.SizeBytes - at);
            Assert.Equal(Errno.Success, processor.TryRead(address, length, out ReadOnlySpan<byte> part));
            part.CopyTo(bytes.AsSpan((int)at));
            at += (ulong)part.Length;
        }

        return bytes;
    }

    /// <summary>A transfer straight by the driver, to its end.</summary>
    public NvmeStatus Transfer(NvmeOpcode opcode, DmaAddressList? list, ulong lba, int blocks, uint nsid = 1)
    {
        NvmeTransfer? ended = null;
        NvmeTransfer transfer = new()
        {
            Opcode = opcode,
            NamespaceId = nsid,
            StartLba = lba,
            BlockCount = blocks,
            Addresses = list,
            Ended = t => ended = t,
        };
        Assert.Equal(Errno.Success, Locked(() => Driver.TrySubmit(transfer)));
        Run();
        Assert.Same(transfer, ended);
        return transfer.Status;
    }

    /// <summary>System memory as the drive reaches it.</summary>
    public DmaAddressList Map(byte[] memory, params (int Offset, int Length)[] parts)
    {
        MemoryWindow window = Locked(() => Fabric.AddWindow(memory, owner: null));
        DeviceRange[] ranges =
            [.. parts.Select(p => new DeviceRange(window.Range.Start + (ulong)p.Offset, (ulong)p.Length))];
        DmaAddressList? list = null;
        Locked(() => Assert.Equal(
            Errno.Success, Fabric.TryMap(Controller.Function, new DmaAddressList(ranges), out list)));
        return list!;
    }

    public void Complete(NvmeMediaRequest request)
    {
        Errno errno = MediumFails;
        MediumFails = Errno.Success;
        if (errno == Errno.Success && request.Kind != NvmeMediaKind.Flush)
        {
            Span<byte> medium = Medium.AsSpan((int)request.OffsetBytes, request.Buffer.Length);
            if (request.Kind == NvmeMediaKind.Read)
            {
                medium.CopyTo(request.Buffer.Span);
            }
            else
            {
                request.Buffer.Span.CopyTo(medium);
            }
        }

        request.Complete(errno);
    }

    /// <summary>Puts an entry into a queue of the driver, behind its back.</summary>
    public void Submit(int queue, byte[] entry)
    {
        int depth = queue == 0 ? 64 : 128;
        entry.CopyTo(_driverMemory.AsSpan((queue * 0x2000) + (_tails[queue] * NvmeCommand.SizeBytes)));
        _tails[queue] = (_tails[queue] + 1) % depth;
        Controller.WriteRegister(NvmeRegister.SubmissionTail(queue), (ulong)_tails[queue]);
    }

    public void CompleteHeld()
    {
        foreach (NvmeMediaRequest request in Held)
        {
            Complete(request);
        }

        Held.Clear();
    }

    private void Serve(NvmeMediaRequest request)
    {
        if (HoldsMedium)
        {
            Held.Add(request);
        }
        else
        {
            Complete(request);
        }
    }
}
