using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Benchmarks.Local;

/// <summary>What the two processes of a local benchmark say to each other. Both are this program.</summary>
internal enum LocalVerb
{
    /// <summary>
    /// A descriptor comes with it, and may bring its pages: import and map it, answer, then touch and unmap it and
    /// answer again.
    /// </summary>
    HandOver = 1,

    /// <summary>A descriptor comes with it: keep it mapped, and measure copies out of it.</summary>
    Copy = 2,

    /// <summary>Open a ring, and measure commands in it one by one.</summary>
    Ring = 3,

    /// <summary>All threads stay on the first processor from now on.</summary>
    Stay = 4,
}

/// <summary>Numbers in one message, between two processes of this program.</summary>
internal static class LocalMessages
{
    private const int NumbersMax = 4;

    public static void Send(MessageSocket socket, ReadOnlySpan<long> numbers, params ReadOnlySpan<FileDescriptor> sent)
    {
        Errno errno = socket.Send(MemoryMarshal.AsBytes(numbers), sent);
        if (errno != Errno.Success)
        {
            throw new WayleaveException(errno, "measure", "the other process has ended");
        }
    }

    /// <summary>
    /// Waits for numbers, and what descriptors come with them; looks for so long before it sleeps.
    /// </summary>
    /// <returns>False when the other process has closed its end.</returns>
    public static bool TryReceive(
        MessageSocket socket, Span<long> numbers, out FileDescriptor[] descriptors, TimeSpan spin = default)
    {
        Span<byte> bytes = stackalloc byte[(NumbersMax + 1) * sizeof(long)];
        Errno errno = socket.Receive(bytes, out int length, out descriptors, spin);
        if (errno != Errno.Success || length == 0)
        {
            return false;
        }

        if (length != numbers.Length * sizeof(long))
        {
            throw new WayleaveException(Errno.EPROTO, "measure", $"{length} bytes are no {numbers.Length} numbers");
        }

        for (int i = 0; i < numbers.Length; i++)
        {
            numbers[i] = BinaryPrimitives.ReadInt64LittleEndian(bytes[(i * sizeof(long))..]);
        }

        return true;
    }

    /// <summary>As <see cref="TryReceive"/>, where the end of the other process is an error.</summary>
    public static void Receive(MessageSocket socket, Span<long> numbers)
    {
        if (!TryReceive(socket, numbers, out _))
        {
            throw new WayleaveException(Errno.EPIPE, "measure", "the other process has ended");
        }
    }
}
