using System.Diagnostics;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

/// <summary>
/// Commands to a GPU and their completions in memory that this program shares with the host: while both spin, without a
/// system call. One thread submits, one takes completions; the same one or two. Disposing closes it, and waits for its
/// copies that are under way; it comes before the client's.
/// </summary>
public sealed class ClientRing : IDisposable
{
    private const ulong CompletedKey = 1;
    private const ulong HostKey = 2;
    private const int SpinIterations = 1;
    private const int SpinsBeforeYield = 64;

    private static readonly TimeSpan s_spin = TimeSpan.FromMicroseconds(50);

    private readonly BrokerClient _client;
    private readonly uint _number;
    private readonly RingMemory _memory;
    private readonly EventFd _doorbell;
    private readonly EventFd _completed;
    private readonly RingProducer _commands;
    private readonly RingConsumer _completions;
    private readonly DescriptorWatch _watch = new();
    private readonly List<ulong> _ready = [];
    private readonly byte[] _entry = new byte[RingMemory.CommandBytes]; // who submits
    private readonly byte[] _answer = new byte[RingMemory.CompletionBytes]; // who takes
    private int _isClosed;

    internal ClientRing(
        BrokerClient client, uint number, RingMemory memory, FileDescriptor doorbell, FileDescriptor completed)
    {
        (_client, _number, _memory) = (client, number, memory);
        (_doorbell, _completed) = (new EventFd(doorbell), new EventFd(completed));
        _commands = RingProducer.OfCommands(memory);
        _completions = RingConsumer.OfCompletions(memory);
        _watch.AddEdges(CompletedKey, completed);
        client.AddTo(_watch, HostKey);
    }

    /// <summary>Commands and completions that there is room for at a time.</summary>
    public int Slots => _memory.Slots;

    internal RingMemory Memory => _memory;

    internal EventFd Doorbell => _doorbell;

    internal EventFd Completed => _completed;

    /// <summary>Lets commands of the ring name a buffer.</summary>
    /// <returns>By which number.</returns>
    /// <exception cref="BrokerException">EMFILE: 64 are there. ENODEV: it was taken back.</exception>
    public uint Attach(ClientBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        uint slot = 0;
        _client.Ask($"attach {buffer.Name} to a ring", BrokerOperation.AttachToRing, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(buffer.Number);
        }, (ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out slot) && body.IsEnd);
        return slot;
    }

    /// <summary>Ends what <see cref="Attach"/> began.</summary>
    /// <exception cref="BrokerException">EBUSY: copies of it are under way. EBADF.</exception>
    public void Detach(uint slot) =>
        _client.Ask("detach from a ring", BrokerOperation.DetachFromRing, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(slot);
        });

    /// <summary>Lets commands of the ring name a queue of a compute engine.</summary>
    /// <returns>By which number.</returns>
    /// <exception cref="BrokerException">EMFILE: 16 are there. EBADF: the queue is closed.</exception>
    public uint AttachQueue(ClientQueue queue)
    {
        ArgumentNullException.ThrowIfNull(queue);
        uint slot = 0;
        _client.Ask($"attach {queue.Name} to a ring", BrokerOperation.AttachQueueToRing, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(queue.Number);
        }, (ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out slot) && body.IsEnd);
        return slot;
    }

    /// <summary>Ends what <see cref="AttachQueue"/> began; jobs go on.</summary>
    /// <exception cref="BrokerException">EBADF.</exception>
    public void DetachQueue(uint slot) =>
        _client.Ask("detach a queue from a ring", BrokerOperation.DetachQueueFromRing, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(slot);
        });

    /// <summary>
    /// The fence of a copy or of work that was submitted here and has not ended, for other work and other programs to
    /// wait for. One question to the host.
    /// </summary>
    /// <param name="tag">Of the command; of two under way with one tag it is the later.</param>
    /// <exception cref="BrokerException">
    /// EAGAIN: the host has not taken it yet: ask again. ENOENT: it has ended, and its completion is there or will be.
    /// EDQUOT.
    /// </exception>
    public ClientFence ExportFence(ulong tag) =>
        _client.AskForFence("export a fence of a ring", BrokerOperation.ExportRingFence, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt64(tag);
        });

    /// <summary>Writes a command, and wakes the host if it sleeps. Never waits.</summary>
    /// <returns>False when the ring is full: take completions first.</returns>
    /// <exception cref="BrokerException">EPROTO: the host took what was not there.</exception>
    /// <exception cref="ArgumentException">It is work, whose commands come with the other form.</exception>
    public bool TrySubmit(in RingCommand command)
    {
        if (command.Operation == RingOperation.Compute)
        {
            throw new ArgumentException("work is submitted with its commands", nameof(command));
        }

        if (!HasRoom(1))
        {
            return false;
        }

        command.Write(_entry);
        Publish(_entry);
        return true;
    }

    /// <summary>
    /// Submits commands to a compute engine, as <see cref="ClientQueue.Submit"/> does. The completion comes at their
    /// end, with the errno that the fence has, or with that of a refusal: EINVAL, ENOENT, EACCES for a command, EBADF
    /// for the slot. Never waits.
    /// </summary>
    /// <param name="queue">Its slot: what <see cref="AttachQueue"/> said.</param>
    /// <param name="tag">Comes back with the completion.</param>
    /// <param name="commands">Of 64 bytes each; one at least, and fewer than the ring has slots.</param>
    /// <param name="isBarrier">Not before all earlier commands of the ring have ended.</param>
    /// <returns>False when the ring has not as much room: take completions first.</returns>
    /// <exception cref="BrokerException">EPROTO: the host took what was not there.</exception>
    /// <exception cref="ArgumentException">They are not whole commands, none, or more than the ring takes.</exception>
    public bool TrySubmit(uint queue, ulong tag, ReadOnlySpan<byte> commands, bool isBarrier = false)
    {
        int count = commands.Length / RingMemory.CommandBytes;
        if (count == 0 || count >= Slots || commands.Length % RingMemory.CommandBytes != 0)
        {
            throw new ArgumentException($"{commands.Length} bytes are not 1 to {Slots - 1} commands", nameof(commands));
        }

        if (!HasRoom(count + 1))
        {
            return false;
        }

        byte[] entries = new byte[commands.Length + RingMemory.CommandBytes];
        new RingCommand(RingOperation.Compute, isBarrier, tag, queue, Length: (ulong)count).Write(
            entries.AsSpan(0, RingMemory.CommandBytes));
        commands.CopyTo(entries.AsSpan(RingMemory.CommandBytes));
        Publish(entries);
        return true;
    }

    private bool HasRoom(int wanted) =>
        _commands.TryGetRoom(wanted, out int room)
            ? room >= wanted
            : throw new BrokerException("submit", Errno.EPROTO, "the host's indexes make no sense");

    private void Publish(ReadOnlySpan<byte> entries)
    {
        _commands.Write(entries);
        if (_commands.MustWake())
        {
            _doorbell.Signal();
        }
    }

    /// <summary>Takes a completion, if there is one. Never waits.</summary>
    /// <exception cref="BrokerException">EPROTO: what is there makes no sense.</exception>
    public bool TryTake(out RingCompletion completion)
    {
        completion = default;
        if (!_completions.TryTake(_answer, out bool isThere)
            || (isThere && !RingCompletion.TryRead(_answer, out completion)))
        {
            throw new BrokerException("take a completion", Errno.EPROTO, "what the host wrote makes no sense");
        }

        return isThere;
    }

    /// <summary>Waits for a completion: spins for 50 us, then sleeps.</summary>
    /// <param name="completion">What has ended.</param>
    /// <param name="timeout">Relative, in whole milliseconds, or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>False when the time is up.</returns>
    /// <exception cref="BrokerException">
    /// ECONNRESET: the host has ended, or has cut this connection. EPROTO.
    /// </exception>
    public bool Wait(out RingCompletion completion, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        int spins = 0;
        do
        {
            if (TryTake(out completion))
            {
                return true;
            }

            // After about 3 us somebody else may need this processor: the host itself, perhaps.
            if (++spins <= SpinsBeforeYield)
            {
                Thread.SpinWait(SpinIterations);
            }
            else
            {
                Thread.Yield();
            }
        }
        while (Stopwatch.GetElapsedTime(start) < s_spin);

        while (!TryTake(out completion))
        {
            TimeSpan left = timeout == Timeout.InfiniteTimeSpan ? timeout : timeout - Stopwatch.GetElapsedTime(start);
            if (timeout != Timeout.InfiniteTimeSpan && left <= TimeSpan.Zero)
            {
                return false;
            }

            if (!_completions.TryBeginSleep())
            {
                continue;
            }

            _watch.Wait(left, _ready);
            _completions.EndSleep();
            if (_ready.Contains(HostKey) && !TryTake(out completion))
            {
                throw new BrokerException(
                    "wait for a completion", Errno.ECONNRESET, "the host has ended or cut this connection");
            }
        }

        return true;
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) != 0)
        {
            return;
        }

        _client.Close("close a ring", _number);
        _watch.Dispose();
        _doorbell.Dispose();
        _completed.Dispose();
        _memory.Dispose();
    }
}
