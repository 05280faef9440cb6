using System.Diagnostics;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// A program can keep this thread in the kernel: to close a descriptor, also one that is thrown away unseen, waits for
// who has the other end, if that is a socket that lingers. So nothing of the session is held then, and what a program
// has is given back by somebody else when the program is dead or the host stops. The thread stays until the kernel lets
// it go, and counts as a connection of its user for as long.

/// <summary>
/// One program's connection, on a thread of its own, which may wait: it serves nobody else. What makes no sense ends
/// this connection and nothing more.
/// </summary>
internal sealed class BrokerConnection(
    WayleaveHost host, BrokerStore store, MessageSocket socket, UnixPeer peer, Action<BrokerConnection> ended)
    : IDisposable
{
    // A program that has asked again soon may do so once more, and then finds this thread awake: to wake it on another
    // processor takes 20 us and more. Between looks it gives way to whoever wants the processor.
    private static readonly TimeSpan s_spin = TimeSpan.FromMicroseconds(100);
    private static readonly TimeSpan s_soon = TimeSpan.FromMicroseconds(200);

    // For a thread that has nothing to wait for any more; a request that it serves is waited for in any case.
    private static readonly TimeSpan s_endMax = TimeSpan.FromSeconds(2);

    private readonly byte[] _request = new byte[BrokerMessage.BytesMax + 1];
    private readonly byte[] _answer = new byte[BrokerMessage.BytesMax];
    private readonly Lock _serving = new(); // its thread's while it serves; whoever's while the session ends
    private Thread? _thread;
    private BrokerProgram? _program; // under _serving; null before and after
    private BrokerSession _session = null!;
    private BufferRequests _buffers = null!;
    private SyncRequests _syncs = null!;
    private EngineRequests _engines = null!;
    private RdmaRequests _rdma = null!;
    private RingRequests _rings = null!;
    private ImporterRequests _importers = null!;
    private bool _isGreeted;
    private bool _asksSoon; // the last request came soon after the answer to the one before it

    public uint UserId => peer.UserId;

    public void Start()
    {
        _thread = new Thread(Run) { IsBackground = true, Name = $"wayleave broker {peer.ProcessId}" };
        _thread.Start();
    }

    /// <summary>Ends the connection, and returns when it has nothing any more.</summary>
    public void Dispose()
    {
        socket.Shutdown();
        if (_thread?.Join(s_endMax) == false)
        {
            host.Context.Trace("broker.kept", _thread.Name ?? "");
            End();
        }
    }

    /// <summary>The process is dead: nobody is to be waited for. Returns at once.</summary>
    private void HandleDeath()
    {
        socket.Shutdown();
        _ = EndLaterAsync();
    }

    private async Task EndLaterAsync()
    {
        await Task.Delay(s_endMax).ConfigureAwait(false);
        try
        {
            End();
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            host.Context.Trace("broker.failed", e.ToString()); // as in Run
        }
    }

    private void Run()
    {
        try
        {
            Begin();
            try
            {
                socket.ReceiveTimeout = store.GreetingMax;
                bool isServed = TryServe();
                socket.ReceiveTimeout = TimeSpan.Zero;
                while (isServed)
                {
                    isServed = TryServe();
                }
            }
            finally
            {
                End();
            }
        }
        catch (WayleaveException e)
        {
            host.Context.Trace("broker.refused", e.Message); // before it said hello
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            host.Context.Trace("broker.failed", e.ToString()); // a bug of ours, which ends this connection alone
        }
        finally
        {
            socket.Dispose();
            ended(this);
        }
    }

    private void Begin()
    {
        lock (_serving)
        {
            _program = store.Programs.Enter(socket, HandleDeath, peer);
            _session = new BrokerSession(host, store, _program);
            _buffers = new BufferRequests(_session);
            _syncs = new SyncRequests(_session);
            _engines = new EngineRequests(_session);
            _rdma = new RdmaRequests(_session);
            _rings = new RingRequests(_session, socket.Shutdown);
            _importers = new ImporterRequests(_session, socket);
        }
    }

    private bool TryServe()
    {
        long start = Stopwatch.GetTimestamp();
        Errno errno = socket.Receive(
            _request, out int length, out FileDescriptor[] descriptors, _asksSoon ? s_spin : TimeSpan.Zero);
        _asksSoon = Stopwatch.GetElapsedTime(start) < s_soon;
        try
        {
            lock (_serving)
            {
                return errno == Errno.Success && length > 0 && _program is not null && TryServe(length, descriptors);
            }
        }
        finally
        {
            foreach (FileDescriptor descriptor in descriptors)
            {
                descriptor.Dispose();
            }
        }
    }

    private bool TryServe(int length, FileDescriptor[] descriptors)
    {
        if (!BrokerMessage.TryRead(_request.AsSpan(0, length), out BrokerHeader header, out BrokerReader body)
            || header.IsAnswer || (header.Operation == BrokerOperation.Hello) == _isGreeted)
        {
            return false;
        }

        try
        {
            return TryServe(header, ref body, descriptors);
        }
        catch (Exception thrown) when (thrown is WayleaveException or LinuxException)
        {
            WayleaveException e = ErrnoMap.ToException(thrown, "serve a program"); // out of descriptors, say
            BrokerWriter refusal = BrokerMessage.Begin(_answer, header with { IsAnswer = true, Errno = e.Errno });
            refusal.WriteText(e.Message);
            return TrySend(refusal.Finish());
        }
    }

    // False for a body that is not that of its operation: the connection ends.
    private bool TryServe(in BrokerHeader header, ref BrokerReader body, FileDescriptor[] descriptors)
    {
        (int fewest, int most) = DescriptorsOf(header.Operation);
        if (descriptors.Length < fewest || descriptors.Length > most)
        {
            return false;
        }

        if (Begins(header.Operation))
        {
            store.ThrowIfDraining($"{header.Operation}");
        }

        BrokerReply reply = new(BrokerMessage.Begin(_answer, header with { IsAnswer = true }));
        bool isServed = header.Operation switch
        {
            BrokerOperation.Hello => TryGreet(ref body, ref reply),
            BrokerOperation.OpenDevice => _buffers.TryOpenDevice(ref body, ref reply),
            BrokerOperation.Allocate => _buffers.TryAllocate(ref body, ref reply),
            BrokerOperation.Export => _buffers.TryExport(ref body, ref reply),
            BrokerOperation.Import => _buffers.TryImport(ref body, ref reply, descriptors[0]),
            BrokerOperation.Close => TryClose(ref body),
            BrokerOperation.Map => _buffers.TryMap(ref body, ref reply),
            BrokerOperation.Unmap => _buffers.TryUnmap(ref body),
            BrokerOperation.Describe => _buffers.TryDescribe(ref body, ref reply),
            BrokerOperation.Revoke => _buffers.TryRevoke(ref body, ref reply),
            BrokerOperation.ImportAndMap => _buffers.TryImportAndMap(ref body, ref reply, descriptors[0]),
            BrokerOperation.ImportWithPages => _buffers.TryImportWithPages(ref body, ref reply, descriptors[0]),
            BrokerOperation.ReadProof => _buffers.TryReadProof(ref body, ref reply),
            BrokerOperation.ExportFence => _syncs.TryExport(ref body, ref reply),
            BrokerOperation.ImportFence => _syncs.TryImport(ref body, descriptors[0]),
            BrokerOperation.DescribeFence => _syncs.TryDescribe(ref body, ref reply, descriptors[0]),
            BrokerOperation.SetDeadline => _syncs.TrySetDeadline(ref body, descriptors[0]),
            BrokerOperation.MergeFences => _syncs.TryMerge(ref body, ref reply, descriptors),
            BrokerOperation.OpenTimeline => _syncs.TryOpenTimeline(ref body, ref reply),
            BrokerOperation.MakeFence => _syncs.TryMakeFence(ref body, ref reply),
            BrokerOperation.Advance => _syncs.TryAdvance(ref body),
            BrokerOperation.Copy => _engines.TryCopy(ref body, ref reply, descriptors),
            BrokerOperation.OpenQueue => _engines.TryOpenQueue(ref body, ref reply),
            BrokerOperation.Bind => _engines.TryBind(ref body, ref reply),
            BrokerOperation.Unbind => _engines.TryUnbind(ref body),
            BrokerOperation.Submit => _engines.TrySubmit(ref body, ref reply, descriptors),
            BrokerOperation.Register => _rdma.TryRegister(ref body, ref reply),
            BrokerOperation.CreateQueuePair => _rdma.TryCreateQueuePair(ref body, ref reply),
            BrokerOperation.ConnectQueuePair => _rdma.TryConnect(ref body),
            BrokerOperation.PostSend => _rdma.TryPost(ref body),
            BrokerOperation.PostReceive => _rdma.TryPostReceive(ref body),
            BrokerOperation.TakeCompletions => _rdma.TryTakeCompletions(ref body, ref reply),
            BrokerOperation.OpenRing => _rings.TryOpen(ref body, ref reply),
            BrokerOperation.AttachToRing => _rings.TryAttach(ref body, ref reply),
            BrokerOperation.DetachFromRing => _rings.TryDetach(ref body),
            BrokerOperation.AttachQueueToRing => _rings.TryAttachQueue(ref body, ref reply),
            BrokerOperation.DetachQueueFromRing => _rings.TryDetachQueue(ref body),
            BrokerOperation.ExportRingFence => _rings.TryExportFence(ref body, ref reply),
            BrokerOperation.Attach => _importers.TryAttach(ref body, ref reply),
            BrokerOperation.MapAttachment => _importers.TryMap(ref body, ref reply),
            BrokerOperation.Release => _importers.TryRelease(ref body),
            _ => false,
        };
        return isServed && TrySend(ref reply);
    }

    // What a host that drains begins no more. What programs have goes on: mappings, fences, keys; and receives, for
    // which peers may wait with what they have sent.
    private static bool Begins(BrokerOperation operation) => operation
        is BrokerOperation.Hello or BrokerOperation.Allocate or BrokerOperation.Copy or BrokerOperation.OpenQueue
        or BrokerOperation.Submit or BrokerOperation.Register or BrokerOperation.CreateQueuePair
        or BrokerOperation.PostSend or BrokerOperation.OpenRing or BrokerOperation.Attach;

    // How many come with a request: of most none.
    private static (int Fewest, int Most) DescriptorsOf(BrokerOperation operation) => operation switch
    {
        BrokerOperation.Import or BrokerOperation.ImportAndMap or BrokerOperation.ImportWithPages
            or BrokerOperation.ImportFence or BrokerOperation.DescribeFence or BrokerOperation.SetDeadline => (1, 1),
        BrokerOperation.MergeFences => (2, 2),
        BrokerOperation.Copy or BrokerOperation.Submit => (0, MessageSocket.DescriptorsMax),
        _ => (0, 0),
    };

    private bool TryGreet(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint oldest) || !body.TryReadUInt32(out uint newest)
            || !body.TryReadName(out string name) || !body.IsEnd || oldest > newest)
        {
            return false;
        }

        if (oldest > BrokerMessage.Version || newest < BrokerMessage.VersionOldest)
        {
            throw new WayleaveException(
                Errno.EPROTO,
                "connect",
                $"this host speaks versions {BrokerMessage.VersionOldest} to {BrokerMessage.Version}");
        }

        _isGreeted = true;
        _session.Version = Math.Min(newest, BrokerMessage.Version);
        using (host.Context.Enter())
        {
            _session.Program.Name = name;
        }

        reply.Body.WriteUInt32(_session.Version);
        return true;
    }

    private bool TryClose(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        switch (_session.Remove(number))
        {
            case BrokerBuffer buffer:
                store.Buffers.Close(_session.Program, buffer);
                break;
            case IBrokerUse use:
                use.End();
                break;
        }

        return true;
    }

    // Answers are sent without waiting for a program that does not read them: it is cut off. A descriptor that does not
    // get there leaves no copy, and the watch hears of it.
    private bool TrySend(ref BrokerReply reply)
    {
        using FileDescriptor? descriptor = reply.Descriptor;
        return TrySend(reply.Body.Finish(), descriptor is null ? reply.Lent ?? [] : [descriptor]);
    }

    private bool TrySend(ReadOnlySpan<byte> message, params ReadOnlySpan<FileDescriptor> descriptors) =>
        socket.Send(message, descriptors, waits: false) == Errno.Success;

    // Once, whoever comes first; the others wait for it.
    private void End()
    {
        lock (_serving)
        {
            if (_program is not { } program)
            {
                return;
            }

            _program = null;
            try
            {
                _engines.End();
                _session.End();
            }
            finally
            {
                store.Programs.Leave(program, socket);
            }
        }
    }
}
