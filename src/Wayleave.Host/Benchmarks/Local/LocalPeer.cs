using System.Diagnostics;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Benchmarks.Local;

/// <summary>The importer of a local benchmark: a program like any other, in a process of its own.</summary>
public static class LocalPeer
{
    private const int PageBytes = 4096;

    // As the peers that this is held against do: who waits to be given memory looks, and does not sleep.
    private static readonly TimeSpan s_spin = TimeSpan.FromMilliseconds(1);

    /// <summary>Does what the other process says until it closes its end.</summary>
    /// <param name="meeting">Where that one listens.</param>
    /// <param name="broker">The broker's socket.</param>
    /// <exception cref="WayleaveException">The other process sent bytes that it should not have.</exception>
    public static void Run(string meeting, string broker)
    {
        using MessageSocket socket = MessageSocket.Connect(meeting);
        using BrokerClient client = BrokerClient.Connect(broker, "bench local");
        Span<long> command = stackalloc long[4];
        while (LocalMessages.TryReceive(socket, command, out FileDescriptor[] descriptors, s_spin))
        {
            try
            {
                switch ((LocalVerb)command[0])
                {
                    case LocalVerb.HandOver:
                        HandOver(socket, client, descriptors, command[1]);
                        break;
                    case LocalVerb.Copy:
                        Copy(socket, client, descriptors[0], (int)command[1], (int)command[2], (nuint)command[3]);
                        break;
                    case LocalVerb.Stay:
                        ProcessorAffinity.TryKeepProcessOn(0);
                        break;
                    default:
                        Ring(socket, client, (int)command[1]);
                        break;
                }
            }
            finally
            {
                Array.ForEach(descriptors, d => d.Dispose());
            }
        }
    }

    private static void HandOver(MessageSocket socket, BrokerClient client, FileDescriptor[] came, long stamp)
    {
        long start = Stopwatch.GetTimestamp();
        ClientMapping mapping;
        ClientBuffer buffer = came is [{ } descriptor, { } pages]
            ? client.ImportAndMap(descriptor, pages, out mapping)
            : client.ImportAndMap(came[0], out mapping);
        long mapped = Stopwatch.GetTimestamp();
        Span<byte> bytes = mapping.Memory.Span;
        long seen = BitConverter.ToInt64(bytes);
        long read = Stopwatch.GetTimestamp();
        if (seen != stamp)
        {
            throw new WayleaveException(Errno.EIO, "hand over", $"{seen} is there and not {stamp}");
        }

        LocalMessages.Send(socket, [mapped - start, read - start, read]);
        start = Stopwatch.GetTimestamp();
        int sum = 0;
        for (int at = 0; at < bytes.Length; at += PageBytes)
        {
            sum += bytes[at];
        }

        GC.KeepAlive(sum);
        long touched = Stopwatch.GetTimestamp() - start;
        start = Stopwatch.GetTimestamp();
        mapping.Dispose();
        buffer.Dispose();
        LocalMessages.Send(socket, [touched, Stopwatch.GetTimestamp() - start]);
    }

    // Plain, out of the mapping and by the kernel take turns, from the same number of bytes that nobody writes
    // meanwhile; all targets are the same memory.
    private static void Copy(
        MessageSocket socket, BrokerClient client, FileDescriptor descriptor, int iterations, int pid, nuint address)
    {
        using ClientBuffer buffer = client.ImportAndMap(descriptor, out ClientMapping mapping);
        int length = checked((int)buffer.SizeBytes);
        using MappedMemory own = MappedMemory.AllocateAnonymous(length, hugePages: false);
        using MappedMemory target = MappedMemory.AllocateAnonymous(length, hugePages: false);
        Span<byte> shared = mapping.Memory.Span, source = own.GetSpan(), to = target.GetSpan();
        shared.CopyTo(source);
        for (int i = 0; i < iterations; i++)
        {
            long start = Stopwatch.GetTimestamp();
            source.CopyTo(to);
            long plain = Stopwatch.GetTimestamp();
            shared.CopyTo(to);
            long mapped = Stopwatch.GetTimestamp();
            Errno errno = ProcessMemory.Read(pid, address, to);
            long read = Stopwatch.GetTimestamp();
            LocalMessages.Send(
                socket, [plain - start, mapped - plain, errno == Errno.Success ? read - mapped : -(long)errno]);
        }

        mapping.Dispose();
    }

    // One command at a time. While the times are taken nothing is sent: the host's side and this one spin.
    private static void Ring(MessageSocket socket, BrokerClient client, int iterations)
    {
        ClientDevice device = client.OpenDevice("gpu0");
        using ClientBuffer buffer = device.Allocate("ring", 2 * PageBytes);
        using ClientRing ring = device.OpenRing();
        uint slot = ring.Attach(buffer);
        long[] nothing = new long[iterations], copies = new long[iterations];
        for (int i = 0; i < iterations; i++)
        {
            nothing[i] = RoundTrip(ring, new RingCommand(RingOperation.Nothing, false, (ulong)i));
        }

        for (int i = 0; i < iterations; i++)
        {
            copies[i] = RoundTrip(
                ring, new RingCommand(RingOperation.Copy, false, (ulong)i, slot, slot, 0, PageBytes, PageBytes));
        }

        for (int i = 0; i < iterations; i++)
        {
            LocalMessages.Send(socket, [nothing[i], copies[i]]);
        }
    }

    private static long RoundTrip(ClientRing ring, in RingCommand command)
    {
        long start = Stopwatch.GetTimestamp();
        ring.TrySubmit(command);
        ring.Wait(out RingCompletion completion, Timeout.InfiniteTimeSpan);
        long elapsed = Stopwatch.GetTimestamp() - start;
        return completion.Errno == Errno.Success && completion.Tag == command.Tag
            ? elapsed
            : throw new WayleaveException(completion.Errno, "measure a ring", "another completion came");
    }
}
