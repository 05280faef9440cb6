using System.Text.Json;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Control;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// One program's connection, on a thread of its own, which may wait: it serves nobody else. What makes no sense ends
/// this connection and nothing more.
/// </summary>
internal sealed class BrokerConnection(
    WayleaveHost host, BrokerStore store, MessageSocket socket, UnixPeer peer, Action<BrokerConnection> ended)
    : IDisposable
{
    private const int NumbersMax = 1 << 20;

    private readonly byte[] _request = new byte[BrokerMessage.BytesMax + 1];
    private readonly byte[] _answer = new byte[BrokerMessage.BytesMax];
    private readonly Dictionary<uint, GpuHandle> _devices = [];
    private readonly Dictionary<uint, BrokerBuffer> _buffers = [];
    private readonly List<(uint Number, BrokerMapping Mapping)> _mappings = [];
    private Thread? _thread;
    private BrokerProgram _program = null!;
    private bool _isGreeted;
    private uint _next = 1;

    public void Start()
    {
        _thread = new Thread(Run) { IsBackground = true, Name = $"wayleave broker {peer.ProcessId}" };
        _thread.Start();
    }

    /// <summary>Ends the connection and waits for its thread.</summary>
    public void Dispose()
    {
        socket.Shutdown();
        _thread?.Join();
    }

    private void Run()
    {
        try
        {
            _program = store.Enter(peer);
            try
            {
                while (TryServe())
                {
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

    private bool TryServe()
    {
        Errno errno = socket.Receive(_request, out int length, out FileDescriptor[] descriptors);
        try
        {
            if (errno != Errno.Success || length == 0
                || !BrokerMessage.TryRead(_request.AsSpan(0, length), out BrokerHeader header, out BrokerReader body)
                || header.IsAnswer || (header.Operation == BrokerOperation.Hello) == _isGreeted)
            {
                return false;
            }

            try
            {
                return TryServe(header, ref body, descriptors);
            }
            catch (WayleaveException e)
            {
                BrokerWriter refusal = BrokerMessage.Begin(_answer, header with { IsAnswer = true, Errno = e.Errno });
                refusal.WriteText(e.Message);
                return TrySend(refusal.Finish());
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

    // False for a body that is not that of its operation: the connection ends.
    private bool TryServe(in BrokerHeader header, ref BrokerReader body, FileDescriptor[] descriptors)
    {
        bool takesOne = header.Operation is BrokerOperation.Import or BrokerOperation.ImportAndMap;
        if (descriptors.Length != (takesOne ? 1 : 0))
        {
            return false;
        }

        BrokerWriter answer = BrokerMessage.Begin(_answer, header with { IsAnswer = true });
        return header.Operation switch
        {
            BrokerOperation.Hello => TryGreet(ref body, ref answer),
            BrokerOperation.OpenDevice => TryOpenDevice(ref body, ref answer),
            BrokerOperation.Allocate => TryAllocate(ref body, ref answer),
            BrokerOperation.Export => TryExport(ref body, ref answer),
            BrokerOperation.Import => TryImport(ref body, ref answer, descriptors[0]),
            BrokerOperation.Close => TryClose(ref body, ref answer),
            BrokerOperation.Map => TryMap(ref body, ref answer),
            BrokerOperation.Unmap => TryUnmap(ref body, ref answer),
            BrokerOperation.Describe => TryDescribe(ref body, ref answer),
            BrokerOperation.Revoke => TryRevoke(ref body, ref answer),
            BrokerOperation.ImportAndMap => TryImportAndMap(ref body, ref answer, descriptors[0]),
            _ => false,
        };
    }

    private bool TryGreet(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint oldest) || !body.TryReadUInt32(out uint newest)
            || !body.TryReadName(out string name) || !body.IsEnd || oldest > newest)
        {
            return false;
        }

        if (oldest > BrokerMessage.Version || newest < BrokerMessage.Version)
        {
            throw new WayleaveException(
                Errno.EPROTO, "connect", $"this host speaks version {BrokerMessage.Version} alone");
        }

        _isGreeted = true;
        using (host.Context.Enter())
        {
            _program.Name = name;
        }

        answer.WriteUInt32(BrokerMessage.Version);
        return TrySend(answer.Finish());
    }

    private bool TryOpenDevice(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        GpuHandle gpu = host.Gpus.FirstOrDefault(g => g.Name == name && g.Presence.IsPresent)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                $"open {name}",
                "the host has no such GPU",
                $"it has {string.Join(", ", host.Gpus.Where(g => g.Presence.IsPresent).Select(g => g.Name))}");
        uint number = NextNumber(_devices.Count);
        _devices.Add(number, gpu);
        answer.WriteUInt32(number);
        using (host.Context.Enter())
        {
            answer.WriteUInt64(gpu.Device.Stats.VramTotalBytes);
        }

        return TrySend(answer.Finish());
    }

    private bool TryAllocate(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint storage) || storage > 2
            || !body.TryReadUInt64(out ulong sizeBytes) || !body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        if (!_devices.TryGetValue(device, out GpuHandle? gpu))
        {
            throw new WayleaveException(Errno.EBADF, $"allocate {name}", $"device {device} is not open");
        }

        BrokerBuffer made = store
            .AllocateAsync(_program, gpu, name, sizeBytes, (ClientStorage)storage).GetAwaiter().GetResult();
        answer.WriteUInt32(Number(made));
        return TrySend(answer.Finish());
    }

    private bool TryExport(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!TryFind(ref body, "export", out BrokerBuffer? buffer))
        {
            return false;
        }

        HandlePair pair = store.Export(_program, buffer!);
        try
        {
            return TrySend(answer.Finish(), pair.Given);
        }
        finally
        {
            pair.Release(); // if it did not get there, no copy is left, and the watch hears of it
        }
    }

    private bool TryImport(ref BrokerReader body, ref BrokerWriter answer, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = store.Import(_program, descriptor);
        answer.WriteUInt32(Number(buffer));
        answer.WriteUInt64(buffer.Shared.SizeBytes);
        answer.WriteName(buffer.Shared.Name);
        return TrySend(answer.Finish());
    }

    private bool TryClose(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        if (!_buffers.Remove(number, out BrokerBuffer? buffer))
        {
            throw NoBuffer("close", number);
        }

        store.Close(_program, buffer);
        return TrySend(answer.Finish());
    }

    private bool TryMap(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = _buffers.GetValueOrDefault(number) ?? throw NoBuffer("map", number);
        (FileDescriptor pages, BrokerMapping mapping) = store.Map(_program, buffer);
        _mappings.Add((number, mapping));
        using (pages)
        {
            return TrySend(answer.Finish(), pages);
        }
    }

    private bool TryUnmap(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        int index = _mappings.FindIndex(m => m.Number == number);
        if (index < 0)
        {
            throw NoBuffer("unmap", number);
        }

        BrokerMapping mapping = _mappings[index].Mapping;
        _mappings.RemoveAt(index);
        store.LetGo(mapping);
        return TrySend(answer.Finish());
    }

    // Two steps of the store, and all or nothing for the program: a map that is refused gives the number back.
    private bool TryImportAndMap(ref BrokerReader body, ref BrokerWriter answer, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = store.Import(_program, descriptor);
        FileDescriptor pages;
        BrokerMapping mapping;
        try
        {
            (pages, mapping) = store.Map(_program, buffer);
        }
        catch
        {
            store.Close(_program, buffer);
            throw;
        }

        using (pages)
        {
            uint number = Number(buffer);
            _mappings.Add((number, mapping));
            answer.WriteUInt32(number);
            answer.WriteUInt64(buffer.Shared.SizeBytes);
            answer.WriteName(buffer.Shared.Name);
            return TrySend(answer.Finish(), pages);
        }
    }

    private bool TryDescribe(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!TryFind(ref body, "describe", out BrokerBuffer? buffer))
        {
            return false;
        }

        using (host.Context.Enter())
        {
            answer.WriteUInt64(buffer!.Shared.Id);
            answer.WriteUInt64(buffer.Shared.SizeBytes);
            answer.WriteUInt32(buffer.Shared.IsRevoked ? 1u : 0);
            answer.WriteUInt32((uint)buffer.References);
        }

        return TrySend(answer.Finish());
    }

    private bool TryRevoke(ref BrokerReader body, ref BrokerWriter answer)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint timeoutMs) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = _buffers.GetValueOrDefault(number) ?? throw NoBuffer("revoke", number);
        if (!ReferenceEquals(buffer.Owner, _program))
        {
            throw new WayleaveException(
                Errno.EPERM, $"revoke {buffer.Shared.Name}", $"it belongs to {buffer.Owner.Holder}");
        }

        RevokePolicy policy = new()
        {
            Reason = $"taken back by {_program.Holder}",
            Timeout = TimeSpan.FromMilliseconds(Math.Min(timeoutMs, ControlEndpoints.RevokeTimeoutMsMax)),
        };
        RetirementProof proof = store.RevokeAsync(buffer, policy).GetAwaiter().GetResult();
        answer.WriteText(JsonSerializer.Serialize(ProofDocument.From(proof), ControlJson.Default.ProofDocument));
        return TrySend(answer.Finish());
    }

    private bool TryFind(ref BrokerReader body, string operation, out BrokerBuffer? buffer)
    {
        buffer = null;
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        buffer = _buffers.GetValueOrDefault(number) ?? throw NoBuffer(operation, number);
        return true;
    }

    // Answers are sent without waiting for a program that does not read them: it is cut off.
    private bool TrySend(ReadOnlySpan<byte> message, params ReadOnlySpan<FileDescriptor> descriptors) =>
        socket.Send(message, descriptors, waits: false) == Errno.Success;

    private uint Number(BrokerBuffer buffer)
    {
        uint number = NextNumber(_buffers.Count);
        _buffers.Add(number, buffer);
        return number;
    }

    private uint NextNumber(int taken) =>
        taken < NumbersMax
            ? _next++
            : throw new WayleaveException(Errno.EMFILE, "open", "this connection has too many open objects");

    private static WayleaveException NoBuffer(string operation, uint number) =>
        new(Errno.EBADF, operation, $"{number} is no buffer of this connection");

    private void End()
    {
        foreach ((_, BrokerMapping mapping) in _mappings)
        {
            store.LetGo(mapping);
        }

        foreach (BrokerBuffer buffer in _buffers.Values)
        {
            store.Close(_program, buffer);
        }

        store.Leave(_program);
    }
}
