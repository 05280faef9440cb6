namespace Wayleave.Devices.Ethernet;

/// <summary>What a program says about a frame.</summary>
public enum FrameVerdict
{
    Pass,
    Drop,
}

/// <summary>
/// Looks at every byte of every frame before it is placed (XDP). As it reads payload, a NIC with one has no bound
/// queues.
/// </summary>
public interface IFrameProgram
{
    /// <summary>Called under the port token, after steering; keeps no span.</summary>
    FrameVerdict Handle(ReadOnlySpan<byte> frame, int queue);
}

/// <summary>
/// Takes the frames of one queue as they are, in place of the protocols above (AF_XDP). Such a queue cannot be bound.
/// </summary>
public interface IFrameReader
{
    /// <summary>Called under the port token, after steering; keeps no span.</summary>
    void Handle(ReadOnlySpan<byte> frame, TimeSpan now);
}
