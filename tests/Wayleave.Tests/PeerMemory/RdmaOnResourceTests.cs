using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Tests.Rdma;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>A peer writes into chunks of a resource by RDMA, and the process that owns it dies.</summary>
public sealed class RdmaOnResourceTests
{
    private const ulong Page = PeerPool.PageBytes;
    private const uint First = Conversation.First;

    private readonly Conversation _c = new();
    private readonly byte[] _vram = new byte[4 * Page];
    private readonly PeerHandleTable _process;
    private readonly PeerResource _resource;
    private readonly MemoryRegion _region;
    private readonly PeerImport _import;
    private readonly GpuDevice _gpu;

    public RdmaOnResourceTests()
    {
        HostContext host = _c.Node.Host;
        PciFunction function = new("0000:01:00.0", "gpu0");
        _process = new PeerHandleTable(host, "process 1");
        PeerHandle? handle;
        using (host.Enter())
        {
            _gpu = new GpuDevice(host, _c.Node.Fabric, function, new GpuOptions(), [_vram], [new byte[Page]]);
            Assert.Equal(
                Errno.Success,
                PeerResource.TryAdd(host, function.PeerDevice!, "ring", 4 * Page, "process 1", out handle));
            _process.TryInstall(handle!, out _);
        }

        _gpu.CopyEngine.Drive(int.MaxValue);
        _resource = handle!.Resource;
        using (host.Enter())
        {
            AcquireTicket ticket = new(host, "register");
            _resource.Buffer.Reservation.TryLock(ticket);
            MemoryRegionRequest request = new(
                0,
                4 * Page,
                0x2000_0000,
                AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
                Core.Buffers.ImporterKind.Dynamic)
            {
                Holder = "peer 10.0.0.2",
            };
            Assert.Equal(
                Errno.Success,
                _c.Node.Device.RegisterLocked(ticket, _c.Node.Domain, _resource.Buffer, request, out _region!, out _));
            _resource.Buffer.Reservation.Unlock(ticket);
            Assert.Equal(Errno.Success, handle.TryImport(_resource.Buffer.Attachments[0], out PeerImport? import));
            _import = import!;
        }
    }

    [Fact]
    public void P2P_25_A_packet_for_a_chunk_lands_before_the_owner_dies_and_none_after()
    {
        PeerChunk chunk = Allocate();
        Write(First, chunk, 0x11);
        _c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Equal(0x11, _vram[(int)chunk.Offset]);

        using (_c.Node.Host.Enter())
        {
            _process.CloseAll();
        }

        Assert.Equal(PeerResourceState.Returned, _resource.State);
        ImporterProof proof = Assert.Single(_resource.Removal!.Proof!.Importers);
        Assert.Equal((RetirementGrade.Retired, (uint?)_region.Key), (proof.Grade, proof.Key));
        _vram.AsSpan().Fill(0xEE); // the next owner's
        Write(First + 1, chunk, 0x22);
        _c.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");
        Assert.DoesNotContain((byte)0x22, _vram);
        Assert.Equal(QueuePairState.Error, _c.Pair.State);
        using (_c.Node.Host.Enter())
        {
            Assert.Equal(4 * Page, _gpu.Stats.VramFreeBytes);
            _import.Close();
        }

        Assert.Null(_c.Node.Deregister(_region));
    }

    [Fact]
    public void What_a_peer_keeps_in_quarantine_is_on_its_account_and_not_on_that_of_the_adapter()
    {
        Core.Buffers.InFlightGate gate = _region.Current!.Gate;
        Assert.True(gate.TryEnter()); // a packet is being placed, and does not end
        using (_c.Node.Host.Enter())
        {
            _process.CloseAll();
            PeerDevice device = _resource.Device;
            Assert.Equal(_resource.Removal!.Deadline, device.NextDeadline);
            device.HandleTimeout(_resource.Removal.Deadline); // as the host's watch does: nobody waits for it by name
            Assert.Null(device.NextDeadline);
            Assert.Equal(
                (4 * Page, 4 * Page, 0UL),
                (_gpu.Quarantine.OverdueBytes, _gpu.Quarantine.BytesHeldBy("peer 10.0.0.2"),
                    _gpu.Quarantine.BytesHeldBy("rdma0")));
            Assert.Equal("peer 10.0.0.2", Assert.Single(_resource.Removal.Proof!.Importers).Holder);
        }

        gate.Exit();
        Assert.Equal((PeerResourceState.Returned, 0UL), (_resource.State, _gpu.Quarantine.Bytes));
    }

    [Fact]
    public void An_attachment_of_another_buffer_is_no_import()
    {
        using (_c.Node.Host.Enter())
        {
            _process.TryGet(0, out PeerHandle? handle);
            Assert.Equal(Errno.EINVAL, handle!.TryImport(_c.Memory.Buffer.Attachments[0], out _));
            _process.CloseAll();
            Assert.Equal(Errno.ENODEV, handle.TryImport(_resource.Buffer.Attachments[0], out _));
        }
    }

    private PeerChunk Allocate()
    {
        using (_c.Node.Host.Enter())
        {
            Assert.Equal(Errno.Success, _import.TryAllocate(Page, out _));
            Assert.Equal(Errno.Success, _import.TryAllocate(Page, out PeerChunk? chunk));
            return chunk!;
        }
    }

    private void Write(uint psn, PeerChunk chunk, byte value)
    {
        byte[] payload = new byte[256];
        Array.Fill(payload, value);
        _c.SendWrite(psn, 0, payload, _region.Key, address: _region.Iova + chunk.Offset);
    }
}
