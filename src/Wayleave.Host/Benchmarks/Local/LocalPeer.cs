using System.Diagnostics;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Benchmarks.Local;

/// <summary>The importer of a local benchmark: a program like any other, in a process of its own.</summary>
public static class LocalPeer
{
    private const int PageBytes = 4096;

    /// <summary>Does what the other process says until it closes its end.</summary>
    /// <param name="meeting">Where that one listens.</param>
    /// <param name="broker">The broker's socket.</param>
    /// <exception cref="WayleaveException">The other process sent bytes that it should not have.</exception>
    public static void Run(string meeting, string broker)
    {
        using MessageSocket socket = MessageSocket.Connect(meeting);
        using BrokerClient client = BrokerClient.Connect(broker, "bench local");
        Span<long> command = stackalloc long[4];
        while (LocalMessages.TryReceive(socket, command, out FileDescriptor? descriptor))
        {
            using (descriptor)
            {
                if (command[0] == (long)LocalVerb.HandOver)
                {
                    HandOver(socket, client, descriptor!, command[1]);
                }
                else
                {
                    Copy(socket, client, descriptor!, (int)command[1], (int)command[2], (nuint)command[3]);
                }
            }
        }
    }

    private static void HandOver(MessageSocket socket, BrokerClient client, FileDescriptor descriptor, long stamp)
    {
        long start = Stopwatch.GetTimestamp();
        ClientBuffer buffer = client.ImportAndMap(descriptor, out ClientMapping mapping);
        long mapped = Stopwatch.GetTimestamp() - start;
        Span<byte> bytes = mapping.Memory.Span;
        long seen = BitConverter.ToInt64(bytes);
        long read = Stopwatch.GetTimestamp() - start;
        if (seen != stamp)
        {
            throw new WayleaveException(Errno.EIO, "hand over", $"{seen} is there and not {stamp}");
        }

        LocalMessages.Send(socket, [mapped, read]);
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
}
