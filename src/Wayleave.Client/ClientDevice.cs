using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

/// <summary>What a program wants done with the storage of a buffer.</summary>
public enum ClientStorage
{
    /// <summary>It stays where it is: programs may map it, and whoever does cannot be made to stop.</summary>
    Mappable = 0,

    /// <summary>It can be taken back at any time: nobody may map it, but devices may use it.</summary>
    Revocable = 1,

    /// <summary>
    /// Programs may map it, and it can be taken back: at the deadline whoever still maps it sees zeros from then, and
    /// what it writes there is seen by nobody.
    /// </summary>
    Withdrawable = 2,

    /// <summary>
    /// It stays where it is and nobody maps it: what an accelerator has. Who took it back waits for its users.
    /// </summary>
    Fixed = 3,

    /// <summary>
    /// The device moves it when it needs the room: nobody may map it but who stops when told
    /// (<see cref="ClientImport"/>). It can be taken back at any time, from them too: at the deadline as
    /// <see cref="Withdrawable"/>.
    /// </summary>
    Movable = 4,
}

/// <summary>A device that a program has opened: one with memory, or an RDMA NIC.</summary>
public sealed class ClientDevice
{
    private readonly BrokerClient _client;
    private readonly uint _number;

    internal ClientDevice(BrokerClient client, string name, uint number, ulong memoryBytes) =>
        (_client, Name, _number, MemoryBytes) = (client, name, number, memoryBytes);

    public string Name { get; }

    /// <summary>All of its memory; 0 for an RDMA NIC.</summary>
    public ulong MemoryBytes { get; }

    /// <summary>Takes zeroed memory of the device.</summary>
    /// <param name="name">For people; at most 31 bytes of UTF-8.</param>
    /// <param name="sizeBytes">Positive.</param>
    /// <param name="storage">Whether it may be mapped or taken back.</param>
    /// <returns>Closed by disposing; the memory is freed when nobody has it any more.</returns>
    /// <exception cref="BrokerException">
    /// ENOSPC, ENOMEM: no room. EDQUOT: this program has as much as it may. EOPNOTSUPP: the device has no such storage.
    /// </exception>
    public ClientBuffer Allocate(string name, ulong sizeBytes, ClientStorage storage = ClientStorage.Mappable)
    {
        uint number = 0;
        _client.Ask($"allocate {Name}/{name}", BrokerOperation.Allocate, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)storage);
            body.WriteUInt64(sizeBytes);
            body.WriteName(name);
        }, (ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out number) && body.IsEnd);
        return new ClientBuffer(_client, name, number, sizeBytes);
    }

    /// <summary>
    /// Lets the copy engine of this GPU copy. It waits for the fences that it is given, and for those of both buffers
    /// that it must not overtake; others who use the buffers wait for it. The buffers live until it has ended.
    /// </summary>
    /// <param name="source">Read.</param>
    /// <param name="sourceOffset">In bytes.</param>
    /// <param name="target">Written; may be the source.</param>
    /// <param name="targetOffset">In bytes.</param>
    /// <param name="lengthBytes">Positive.</param>
    /// <param name="after">Fences that have to signal before, well or not; stay the caller's.</param>
    /// <returns>Signals at the end: ECANCELED when a buffer was taken back under it.</returns>
    /// <exception cref="BrokerException">
    /// EBADF: this is no GPU. EINVAL: a range is outside its buffer, or a fence is a program's own. EAGAIN: the engine
    /// has too much to do. EDQUOT.
    /// </exception>
    public ClientFence Copy(
        ClientBuffer source,
        ulong sourceOffset,
        ClientBuffer target,
        ulong targetOffset,
        ulong lengthBytes,
        params ReadOnlySpan<ClientFence> after)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(target);
        string operation = $"copy {source.Name} to {target.Name}";
        return _client.AskForFence(operation, BrokerOperation.Copy, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(source.Number);
            body.WriteUInt32(target.Number);
            body.WriteUInt64(sourceOffset);
            body.WriteUInt64(targetOffset);
            body.WriteUInt64(lengthBytes);
        }, after);
    }

    /// <summary>Opens a queue of one of this GPU's engines.</summary>
    /// <param name="name">Letters, digits, '.', '_', '-' and '+'; at most 31.</param>
    /// <param name="priority">Beside other queues of the engine.</param>
    /// <param name="engine">Which one runs its commands.</param>
    /// <exception cref="BrokerException">
    /// EBADF: this is no GPU. EMFILE: it has no more. EDQUOT. EOPNOTSUPP: the host is of before version 2, and knows
    /// the compute engine alone.
    /// </exception>
    public ClientQueue OpenQueue(
        string name,
        ClientPriority priority = ClientPriority.Normal,
        ClientEngine engine = ClientEngine.Compute)
    {
        if (engine != ClientEngine.Compute && _client.Version < 2)
        {
            throw new BrokerException(
                $"open queue {name}", Errno.EOPNOTSUPP, $"the host speaks version {_client.Version}, and this needs 2");
        }

        uint number = 0;
        uint mode = 0;
        _client.Ask($"open queue {name}", BrokerOperation.OpenQueue, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)priority);
            if (_client.Version >= 2)
            {
                body.WriteUInt32((uint)engine);
            }

            body.WriteName(name);
        }, (ref BrokerReader body, FileDescriptor[] _) =>
            body.TryReadUInt32(out number) && body.TryReadUInt32(out mode) && body.IsEnd);
        return new ClientQueue(_client, number, name, engine, usesAddresses: mode != 0);
    }

    /// <summary>Lets commands of this connection on this GPU use a buffer, which lives for as long.</summary>
    /// <param name="buffer">Of any device that the GPU reaches.</param>
    /// <param name="access">What commands may do with it at most.</param>
    /// <exception cref="BrokerException">EBADF, EINVAL, EMFILE, ENODEV: it was taken back.</exception>
    public ClientBinding Bind(ClientBuffer buffer, FenceUse access = FenceUse.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        uint handle = 0;
        ulong address = 0;
        _client.Ask($"bind {buffer.Name} on {Name}", BrokerOperation.Bind, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(buffer.Number);
            body.WriteUInt32((uint)access);
        }, (ref BrokerReader body, FileDescriptor[] _) =>
            body.TryReadUInt32(out handle) && body.TryReadUInt64(out address) && body.IsEnd);
        return new ClientBinding(this, handle, address);
    }

    /// <summary>Ends a binding; jobs that were submitted go on, and the buffer lives until they have ended.</summary>
    /// <exception cref="BrokerException">EBADF: it was ended before.</exception>
    public void Unbind(ClientBinding binding)
    {
        ArgumentNullException.ThrowIfNull(binding);
        _client.Ask($"unbind on {Name}", BrokerOperation.Unbind, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(binding.Handle);
        });
    }

    /// <summary>
    /// Registers a part of a buffer with this RDMA NIC, for the peers of the queue pairs of this connection.
    /// </summary>
    /// <param name="buffer">Lives until the region is disposed.</param>
    /// <param name="offset">Of the first byte; also its address for peers.</param>
    /// <param name="lengthBytes">Positive.</param>
    /// <param name="access">What a peer may do.</param>
    /// <param name="kind">How it holds on to the memory.</param>
    /// <exception cref="BrokerException">
    /// EBADF: this is no RDMA NIC. EINVAL: a range or rights that make no sense. EOPNOTSUPP: the owner must be able to
    /// take it back. EDQUOT.
    /// </exception>
    public ClientRegion Register(
        ClientBuffer buffer,
        ulong offset,
        ulong lengthBytes,
        ClientRegionAccess access,
        ClientRegionKind kind = ClientRegionKind.Dynamic)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        uint number = 0;
        uint key = 0;
        _client.Ask($"register {buffer.Name} with {Name}", BrokerOperation.Register, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(buffer.Number);
            body.WriteUInt32((uint)kind);
            body.WriteUInt32((uint)access);
            body.WriteUInt64(offset);
            body.WriteUInt64(lengthBytes);
        }, (ref BrokerReader body, FileDescriptor[] _) =>
            body.TryReadUInt32(out number) && body.TryReadUInt32(out key) && body.IsEnd);
        return new ClientRegion(_client, number, key);
    }

    /// <summary>
    /// A queue pair of this RDMA NIC: once it is connected it answers the peer's requests, and has its own.
    /// </summary>
    /// <exception cref="BrokerException">EBADF: this is no RDMA NIC. EDQUOT.</exception>
    public ClientQueuePair CreateQueuePair()
    {
        uint number = 0;
        ClientRdmaEnd? local = null;
        _client.Ask($"create a queue pair of {Name}", BrokerOperation.CreateQueuePair,
            (ref BrokerWriter body) => body.WriteUInt32(_number),
            (ref BrokerReader body, FileDescriptor[] _) =>
            {
                bool isRead = body.TryReadUInt32(out number);
                isRead &= body.TryReadBytes(16, out ReadOnlySpan<byte> gid);
                isRead &= body.TryReadUInt32(out uint port);
                isRead &= body.TryReadUInt32(out uint pair);
                isRead &= body.TryReadUInt32(out uint psn);
                isRead &= body.TryReadUInt32(out uint mtuBytes);
                isRead &= body.TryReadUInt32(out uint receiveBytes);
                local = new ClientRdmaEnd(gid.ToArray(), (ushort)port, pair, psn, (int)mtuBytes, (int)receiveBytes);
                return isRead && body.IsEnd;
            });
        return new ClientQueuePair(_client, number, local!);
    }

    /// <summary>Opens rings in shared memory for commands to this GPU and their completions.</summary>
    /// <param name="slots">Commands under way at most; a power of two from 2 to 4096.</param>
    /// <exception cref="BrokerException">EBADF: this is no GPU. EINVAL: another number. EDQUOT, ENOMEM.</exception>
    public ClientRing OpenRing(int slots = 256)
    {
        uint number = 0;
        uint given = 0;
        FileDescriptor[] sent = [];
        string operation = $"open a ring to {Name}";
        _client.Ask(operation, BrokerOperation.OpenRing, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)slots);
        }, (ref BrokerReader body, FileDescriptor[] received) =>
        {
            sent = received;
            return body.TryReadUInt32(out number) && body.TryReadUInt32(out given) && body.IsEnd
                && received.Length == 3;
        });
        RingMemory? memory = null;
        try
        {
            memory = RingMemory.Open(sent[0], (int)given)
                ?? throw new BrokerException(operation, Errno.EPROTO, "the host's memory is no ring");
            return new ClientRing(_client, number, memory, sent[1], sent[2]);
        }
        catch
        {
            memory?.Dispose();
            sent[1].Dispose();
            sent[2].Dispose();
            throw;
        }
    }
}
