namespace Wayleave.Lab.Rdma;

/// <summary>What the two programs of the test <c>rxe-transports</c> have in common.</summary>
internal static class TransportCases
{
    /// <summary>The 40 bytes before the data of a datagram.</summary>
    internal const int DatagramHeaderBytes = 40;

    internal const uint QKey = 0x11223344;

    /// <summary>Where in either side's memory the other one's atomics work.</summary>
    internal const int WordAt = 64;

    /// <summary>What stands there first.</summary>
    internal const ulong First = 0x0102030405060708;

    internal const ulong Swapped = 0x1112131415161718;

    internal const ulong Added = 0xFFFF_FFFF_FFFF_FFF0;

    /// <summary>Where what comes back is put, and where data is sent from.</summary>
    internal const int OwnAt = 4096;

    /// <summary>Where messages arrive.</summary>
    internal const int ReceivedAt = 1 << 16;

    internal const int KernelSeed = 0x55;

    internal const int OurSeed = 0x11;

    /// <summary>A UC message of three packets.</summary>
    internal static int LongBytes(Dialog link) => 3 * link.PathMtu - 72;

    /// <summary>A datagram that fills its packet but for a pad.</summary>
    internal static int DatagramBytes(Dialog link) => link.PathMtu - 3;
}
