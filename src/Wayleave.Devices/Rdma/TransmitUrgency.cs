namespace Wayleave.Devices.Rdma;

/// <summary>
/// How soon a driver calls <see cref="RdmaPort.PollTransmit"/> after it handed datagrams to the port.
/// </summary>
public enum TransmitUrgency
{
    /// <summary>What came asks for nothing, or for data, which is not smaller for being sent at once.</summary>
    None,

    /// <summary>
    /// An acknowledgement is owed. It may wait until the application has looked, and leave with its answer.
    /// </summary>
    Soon,

    /// <summary>The peer waits: requests that an acknowledgement let out, or a refusal.</summary>
    Now,
}
